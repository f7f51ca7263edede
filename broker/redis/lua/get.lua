#!lua flags=no-writes
-- Reads a record.
-- KEYS: 1 identity, 2 meta, 3 revisions, 4 values
-- ARGV: 1 identity, 2 time, 3 the highest number that the caller has seen, 4 key
-- Returns {'ok', number, revision, value}, {'missing', number} or {'rewound', number}.
local number = redis.call('HGET', KEYS[2], 'number') or '0'
if tonumber(number) < tonumber(ARGV[3]) then
	return {'rewound', number}
end
local revision = redis.call('HGET', KEYS[3], ARGV[4])
if not revision then
	return {'missing', number}
end
return {'ok', number, revision, redis.call('HGET', KEYS[4], ARGV[4])}
