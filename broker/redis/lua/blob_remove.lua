#!lua flags=allow-oom
-- Removes a blob that was put long ago. Its chunks stay a while, for who reads them. It may run when memory is short: it makes room.
-- KEYS: 1 identity, 2 meta, 3… chunks
-- ARGV: 1 identity, 2 time, 3 how long ago it must have been put, in microseconds, 4 how long chunks stay, in milliseconds
-- Returns {'ok'}, {'young'} or {'missing'}.
local put = redis.call('HGET', KEYS[2], 'put')
if not put then
	return {'missing'}
end
if tonumber(put) > now() - ARGV[3] then
	return {'young'}
end
redis.call('DEL', KEYS[2])
for i = 3, #KEYS do
	redis.call('PEXPIRE', KEYS[i], ARGV[4])
end
return {'ok'}
