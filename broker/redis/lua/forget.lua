#!lua flags=allow-oom
-- Forgets a name that was noted long ago.
-- KEYS: 1 identity, 2 names
-- ARGV: 1 identity, 2 time, 3 name, 4 when it was noted, 5 how long ago that must be at least, in microseconds
-- Returns {'ok'}.
if redis.call('HGET', KEYS[2], ARGV[3]) == ARGV[4] and now() - ARGV[4] >= tonumber(ARGV[5]) then
	redis.call('HDEL', KEYS[2], ARGV[3])
end
return {'ok'}
