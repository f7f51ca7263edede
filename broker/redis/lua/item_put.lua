#!lua
-- Puts an item into a bucket.
-- KEYS: 1 identity, 2 meta, 3 versions, 4 values, 5 index, 6 last version of a bucket that became empty
-- ARGV: 1 identity, 2 time, 3 key, 4 value, 5 version that it must have (0: none) or empty, 6 quota in bytes,
--       7 what an item counts besides its key and value, 8 1 if the bucket's name has been noted
-- Returns {'ok', version}, {'conflict', wanted, have}, {'quota', bytes there would be}, or {'note'} if the bucket is to be made
-- and its name has to be noted first.
local meta = redis.call('HMGET', KEYS[2], 'items', 'bytes', 'last')
local have = redis.call('HGET', KEYS[3], ARGV[3])
if ARGV[5] ~= '' and ARGV[5] ~= (have or '0') then
	return {'conflict', ARGV[5], have or '0'}
end
local items, bytes = tonumber(meta[1] or '0'), tonumber(meta[2] or '0')
local after = bytes + #ARGV[4]
if have then
	after = after - redis.call('HSTRLEN', KEYS[4], ARGV[3])
else
	after = after + #ARGV[3] + ARGV[7]
	items = items + 1
end
if after > tonumber(ARGV[6]) and after > bytes then
	return {'quota', text(after)}
end
if not meta[1] and ARGV[8] ~= '1' then
	return {'note'}
end
-- A version is the time, or one more than the last if that is higher: it does not repeat when the bucket is made again.
local last = meta[3] or redis.call('GET', KEYS[6]) or '0'
local version = text(math.max(tonumber(last) + 1, now()))
redis.call('HSET', KEYS[3], ARGV[3], version)
redis.call('HSET', KEYS[4], ARGV[3], ARGV[4])
redis.call('ZADD', KEYS[5], 0, ARGV[3])
redis.call('HSET', KEYS[2], 'items', text(items), 'bytes', text(after), 'last', version)
return {'ok', version}
