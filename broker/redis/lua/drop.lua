#!lua flags=allow-oom
-- Removes a bucket. It may run when memory is short: it makes room.
-- KEYS: 1 identity, 2 meta, 3 versions, 4 values, 5 index, 6 last version of a bucket that became empty
-- ARGV: 1 identity, 2 time
-- Returns {'ok'}.
local last = redis.call('HGET', KEYS[2], 'last')
if last then
	redis.call('SET', KEYS[6], last, 'EX', 86400)
	redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
end
return {'ok'}
