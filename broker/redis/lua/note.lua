#!lua
-- Notes that there may be something of a name.
-- KEYS: 1 identity, 2 names
-- ARGV: 1 identity, 2 time, 3 name
-- Returns {'ok'}.
redis.call('HSET', KEYS[2], ARGV[3], text(now()))
return {'ok'}
