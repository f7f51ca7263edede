#!lua flags=no-writes
-- Reads a chunk of a blob.
-- KEYS: 1 identity, 2 chunk
-- ARGV: 1 identity, 2 time
-- Returns {'ok', bytes}; none, if it is not there.
return {'ok', redis.call('GET', KEYS[2]) or ''}
