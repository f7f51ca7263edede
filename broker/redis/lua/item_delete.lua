#!lua flags=allow-oom
-- Deletes an item of a bucket. It may run when memory is short: it makes room.
-- KEYS: 1 identity, 2 meta, 3 versions, 4 values, 5 index, 6 last version of a bucket that became empty
-- ARGV: 1 identity, 2 time, 3 key, 4 version that it must have (0: none) or empty, 5 what an item counts besides its key and value
-- Returns {'ok'} or {'conflict', wanted, have}.
local have = redis.call('HGET', KEYS[3], ARGV[3])
if ARGV[4] ~= '' and ARGV[4] ~= (have or '0') then
	return {'conflict', ARGV[4], have or '0'}
end
if not have then
	return {'ok'}
end
local meta = redis.call('HMGET', KEYS[2], 'items', 'bytes', 'last')
local items = meta[1] - 1
local bytes = meta[2] - #ARGV[3] - redis.call('HSTRLEN', KEYS[4], ARGV[3]) - ARGV[5]
redis.call('HDEL', KEYS[3], ARGV[3])
redis.call('HDEL', KEYS[4], ARGV[3])
redis.call('ZREM', KEYS[5], ARGV[3])
if items == 0 then
	redis.call('SET', KEYS[6], meta[3], 'EX', 86400)
	redis.call('DEL', KEYS[2])
else
	redis.call('HSET', KEYS[2], 'items', text(items), 'bytes', text(bytes))
end
return {'ok'}
