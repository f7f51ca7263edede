#!lua flags=allow-oom
-- Ends an invocation that waits as dead, and keeps no dead letter. It may run when memory is short: it makes room.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 invocation, 4 reason, 5 channel, 6 the job
-- Returns {'ok'}, {'missing'}, or {'other', state} if it is leased or has ended.
local it, reply = load(ARGV[3]), {'ok'}
if it and it.newer then
	return {'newer', it.newer}
end
it = it and settle(it)
if not it then
	reply = {'missing'}
elseif it.state ~= 'w' then
	reply = {'other', it.state}
else
	finish(it, T, 'dead', '', ARGV[4])
	put(PAYLOADS, it.id, false)
	it.letter, it.dropped, it.size = 0, T, 0
	save(it)
end
flush()
if reply[1] == 'ok' and (it.cmax > 0 or it.order ~= '') then
	redis.pcall('PUBLISH', ARGV[5], ARGV[6])
end
return reply
