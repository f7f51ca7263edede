#!lua
-- Ends a put: the blob is there from now on.
-- KEYS: 1 identity, 2 meta, 3… chunks
-- ARGV: 1 identity, 2 time, 3 size, 4 token of this put
-- Returns {'ok', when}, or {'again'} if a sweep took something of it.
if redis.call('HEXISTS', KEYS[2], 'token') == 0 then
	return {'again'}
end
for i = 3, #KEYS do
	if redis.call('EXISTS', KEYS[i]) == 0 or redis.call('PTTL', KEYS[i]) ~= -1 then
		return {'again'}
	end
end
local at = text(now())
redis.call('HSET', KEYS[2], 'size', ARGV[3], 'put', at, 'token', ARGV[4])
return {'ok', at}
