#!lua
-- Writes a chunk of a blob, unless the same bytes are there.
-- KEYS: 1 identity, 2 meta, 3 chunk
-- ARGV: 1 identity, 2 time, 3 SHA-1 of the chunk in hex, 4 its length, 5 its bytes, or empty to ask whether they are needed
-- Returns {'ok'}, or {'send'} if they are.
local have = redis.call('STRLEN', KEYS[3]) == tonumber(ARGV[4]) and redis.sha1hex(redis.call('GET', KEYS[3])) == ARGV[3]
if not have and ARGV[5] == '' then
	return {'send'}
end
if have then
	redis.call('PERSIST', KEYS[3]) -- a sweep may have left it to its readers for a while
else
	redis.call('SET', KEYS[3], ARGV[5])
end
redis.call('HSET', KEYS[2], 'put', text(now()))
return {'ok'}
