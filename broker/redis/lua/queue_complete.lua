#!lua
-- Ends an invocation, or its callback, under a lease that is current.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 invocation, 4 lane, 5 token, 6 outcome, 7 payload of the result, 8 reason, 9 channel, 10 the job
-- Returns {'ok'} or {'lost'}.
local it = load(ARGV[3])
if it and it.newer then
	return {'newer', it.newer}
elseif not owned(it, ARGV[4], ARGV[5]) then
	return {'lost'}
end
if ARGV[4] == 'run' then
	finish(it, T, ARGV[6], ARGV[7], ARGV[8])
	if it.cmax > 0 or it.order ~= '' then
		redis.pcall('PUBLISH', ARGV[9], ARGV[10])
	end
else
	it.callback, it.called, it.ctoken, it.cworker, it.ctill = 'd', T, '', '', 0
	if ARGV[6] == 'dead' then
		it.callback, it.creason = 'x', ARGV[8]
	end
	save(it)
end
return {'ok'}
