#!lua flags=no-writes
-- Answers what a bucket holds.
-- KEYS: 1 identity, 2 meta
-- ARGV: 1 identity, 2 time
-- Returns {'ok', items, bytes}.
local meta = redis.call('HMGET', KEYS[2], 'items', 'bytes')
return {'ok', meta[1] or '0', meta[2] or '0'}
