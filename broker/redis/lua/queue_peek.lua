#!lua flags=no-writes
-- Says whether queue_lease may answer something, and when time changes that.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 lane
-- Returns {'ok', 1 if so or 0, in how many microseconds it may be so; 0: not by itself}.
local next = 0
local function look(place)
	local first = redis.call('ZRANGE', place, 0, 0, 'WITHSCORES')
	local at = tonumber(first[2] or 'inf')
	if at <= T then
		return true
	end
	if first[2] and (next == 0 or at < next) then
		next = at
	end
end
local ready
if ARGV[3] == 'run' then
	ready = redis.call('EXISTS', READY) == 1 or look(DELAYED) or look(LEASED)
else
	-- A lease of an invocation that lapses may make a callback.
	ready = look(CALLS) or look(CALLING) or look(LEASED)
end
return {'ok', ready and 1 or 0, next == 0 and 0 or text(next - T)}
