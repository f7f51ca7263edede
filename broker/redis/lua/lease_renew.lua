#!lua
-- Lets a hold last for its time to live from now.
-- KEYS: 1 identity, 2 the name's hash
-- ARGV: 1 identity, 2 time, 3 epoch, 4 time to live in microseconds
-- Returns {'ok', until} or {'lost'}.
local t = now()
local have = redis.call('HMGET', KEYS[2], 'holder', 'epoch', 'until')
if not have[1] or have[2] ~= ARGV[3] or tonumber(have[3]) <= t then
	return {'lost'}
end
local till = text(t + ARGV[4])
redis.call('HSET', KEYS[2], 'until', till, 'ttl', ARGV[4])
redis.call('PEXPIRE', KEYS[2], text(math.floor(ARGV[4] / 1000) + 86400000))
return {'ok', till}
