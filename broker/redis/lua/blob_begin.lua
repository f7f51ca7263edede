#!lua
-- Begins to put a blob: from now on it is young, so that no sweep takes it.
-- KEYS: 1 identity, 2 meta
-- ARGV: 1 identity, 2 time, 3 token of this put
-- Returns {'ok', 1 if the blob is there}.
local size = redis.call('HGET', KEYS[2], 'size')
redis.call('HSET', KEYS[2], 'put', text(now()), 'token', ARGV[3])
return {'ok', size and 1 or 0}
