#!lua flags=no-writes
-- Lists records in order of their keys, as many as are in the bounds, and one at least.
-- KEYS: 1 identity, 2 meta, 3 revisions, 4 values, 5 index
-- ARGV: 1 identity, 2 time, 3 the highest number that the caller has seen, 4 and 5 the range as for ZRANGEBYLEX, 6 at most so
--       many, 7 at most so many bytes
-- Returns {'ok', number, mark, 1 if there are more, key, revision, value, key, …} or {'rewound', number}.
local meta = redis.call('HMGET', KEYS[2], 'number', 'mark')
local number = meta[1] or '0'
if tonumber(number) < tonumber(ARGV[3]) then
	return {'rewound', number}
end
local found = redis.call('ZRANGEBYLEX', KEYS[5], ARGV[4], ARGV[5], 'LIMIT', 0, ARGV[6] + 1)
local reply, bytes = {'ok', number, meta[2] or '', 0}, 0
for i, key in ipairs(found) do
	if i > tonumber(ARGV[6]) or bytes >= tonumber(ARGV[7]) then
		reply[4] = 1
		break
	end
	local value = redis.call('HGET', KEYS[4], key)
	reply[#reply + 1] = key
	reply[#reply + 1] = redis.call('HGET', KEYS[3], key)
	reply[#reply + 1] = value
	bytes = bytes + #key + #value
end
return reply
