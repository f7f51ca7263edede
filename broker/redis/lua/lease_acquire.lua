#!lua
-- Takes a name, if nobody holds it.
-- KEYS: 1 identity, 2 the name's hash
-- ARGV: 1 identity, 2 time, 3 holder, 4 time to live in microseconds
-- Returns {'ok', epoch, until} or {'held', holder, epoch, until, time to live, what is left of it}.
local t = now()
local have = redis.call('HMGET', KEYS[2], 'holder', 'epoch', 'until', 'ttl')
if have[1] and tonumber(have[3]) > t then
	return {'held', have[1], have[2], have[3], have[4], text(have[3] - t)}
end
-- An epoch is the time, or one more than the last: also a server that forgot the last does not repeat it.
local epoch, till = text(math.max(tonumber(have[2] or '0') + 1, t)), text(t + ARGV[4])
redis.call('HSET', KEYS[2], 'holder', ARGV[3], 'epoch', epoch, 'until', till, 'ttl', ARGV[4])
-- Kept for a day after its end, for its epoch.
redis.call('PEXPIRE', KEYS[2], text(math.floor(ARGV[4] / 1000) + 86400000))
return {'ok', epoch, till}
