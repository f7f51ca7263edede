#!lua flags=no-writes
-- Lists items of a bucket in order of their keys.
-- KEYS: 1 identity, 2 versions, 3 values, 4 index
-- ARGV: 1 identity, 2 time, 3 and 4 the range as for ZRANGEBYLEX, 5 at most so many, 6 at most about so many bytes, one item at least
-- Returns {'ok', key, version, value, key, …}.
local reply, bytes = {'ok'}, 0
for _, key in ipairs(redis.call('ZRANGEBYLEX', KEYS[4], ARGV[3], ARGV[4], 'LIMIT', 0, ARGV[5])) do
	if bytes >= tonumber(ARGV[6]) then
		break
	end
	local value = redis.call('HGET', KEYS[3], key)
	reply[#reply + 1] = key
	reply[#reply + 1] = redis.call('HGET', KEYS[2], key)
	reply[#reply + 1] = value
	bytes = bytes + #key + #value
end
return reply
