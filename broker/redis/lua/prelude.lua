-- Begins each script. KEYS[1] is the store's identity in the script's slot, ARGV[1] what it must be, and ARGV[2] the time in
-- microseconds, or empty for the server's. Returns {'identity', have} if the store is another one.
local identity = redis.call('GET', KEYS[1])
if identity ~= ARGV[1] then
	return {'identity', identity or ''}
end

-- now is the time in microseconds.
local function now()
	if ARGV[2] ~= '' then
		return tonumber(ARGV[2])
	end
	local t = redis.call('TIME')
	return t[1] * 1000000 + t[2]
end

-- text writes a whole number below 2^53.
local function text(n)
	return string.format('%d', n)
end

