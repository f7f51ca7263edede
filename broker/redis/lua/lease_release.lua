#!lua flags=allow-oom
-- Ends a hold. It may run when memory is short: it adds nothing.
-- KEYS: 1 identity, 2 the name's hash
-- ARGV: 1 identity, 2 time, 3 epoch
-- Returns {'ok'}.
if redis.call('HGET', KEYS[2], 'epoch') == ARGV[3] then
	redis.call('HDEL', KEYS[2], 'holder')
end
return {'ok'}
