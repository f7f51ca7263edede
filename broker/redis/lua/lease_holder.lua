#!lua flags=no-writes
-- Answers who holds a name.
-- KEYS: 1 identity, 2 the name's hash
-- ARGV: 1 identity, 2 time
-- Returns {'ok', holder, epoch, until, time to live} or {'free'}.
local have = redis.call('HMGET', KEYS[2], 'holder', 'epoch', 'until', 'ttl')
if not have[1] or tonumber(have[3]) <= now() then
	return {'free'}
end
return {'ok', have[1], have[2], have[3], have[4]}
