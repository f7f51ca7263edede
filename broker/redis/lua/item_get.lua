#!lua flags=no-writes
-- Reads an item of a bucket.
-- KEYS: 1 identity, 2 versions, 3 values
-- ARGV: 1 identity, 2 time, 3 key
-- Returns {'ok', version, value} or {'missing'}.
local version = redis.call('HGET', KEYS[2], ARGV[3])
if not version then
	return {'missing'}
end
return {'ok', version, redis.call('HGET', KEYS[3], ARGV[3])}
