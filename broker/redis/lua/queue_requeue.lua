#!lua
-- Lets a dead letter wait again.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 invocation, 4 channel, 5 the job
-- Returns {'ok'} or {'missing'}.
local it = load(ARGV[3])
if it and it.newer then
	return {'newer', it.newer}
elseif not it or it.letter ~= 1 then
	return {'missing'}
end
put(RESULTS, it.id, false)
it.seq = redis.call('HINCRBY', META, 'seq', 1)
it.state, it.letter, it.enqueued, it.due, it.attempts, it.reason = 'w', 0, T, T, 0, ''
it.finished, it.outcome, it.result, it.why, it.dropped, it.called = 0, '', 0, '', 0, 0
it.callback = it.cmax > 0 and 'p' or ''
it.cattempts, it.cdue, it.ctoken, it.cworker, it.ctill, it.creason = 0, 0, '', '', 0, ''
if it.order ~= '' then
	redis.call('ZADD', ORDERS, 0, turn(it))
end
save(it)
flush()
redis.pcall('PUBLISH', ARGV[4], ARGV[5])
return {'ok'}
