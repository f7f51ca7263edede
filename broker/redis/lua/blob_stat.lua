#!lua flags=no-writes
-- Describes a blob.
-- KEYS: 1 identity, 2 meta
-- ARGV: 1 identity, 2 time
-- Returns {'ok', size, when it was put} or {'missing'}.
local meta = redis.call('HMGET', KEYS[2], 'size', 'put')
if not meta[1] then
	return {'missing'}
end
return {'ok', meta[1], meta[2]}
