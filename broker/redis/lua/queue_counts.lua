#!lua flags=no-writes
-- Counts a job's invocations.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time
-- Returns {'ok', waiting, ready, leased, dead, callbacks, since when the first in line is ready or 0}.
local meta = redis.call('HMGET', META, 'waiting', 'leased', 'dead', 'calls')
local ready = redis.call('ZCARD', READY) + redis.call('ZCOUNT', DELAYED, '-inf', text(T))
local oldest = 0
local function see(ids)
	local it = ids[1] and load(ids[1])
	if it and not it.newer and (oldest == 0 or it.due < oldest) then
		oldest = it.due
	end
end
for p = 0, 9 do
	see(redis.call('ZRANGEBYSCORE', READY, text(p * 1e14), '(' .. text((p + 1) * 1e14), 'LIMIT', 0, 1))
end
see(redis.call('ZRANGEBYSCORE', DELAYED, '-inf', text(T), 'LIMIT', 0, 1))
return {'ok', meta[1] or 0, ready, meta[2] or 0, meta[3] or 0, meta[4] or 0, text(oldest)}
