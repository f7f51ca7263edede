#!lua flags=allow-oom
-- Forgets everything of a job. It may run when memory is short: it makes room.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time
-- Returns {'ok'}.
redis.call('UNLINK', unpack(KEYS, 2))
return {'ok'}
