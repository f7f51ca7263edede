#!lua
-- Ends invocations, or their callbacks, each under a lease that is current.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 channel, 4 the job, then for each: invocation, lane, token, outcome, payload of the result, reason
-- Returns {'ok', then for each {'ok'}, {'lost'} or {'newer', schema}}.
local ids = {}
for i = 5, #ARGV, 6 do
	ids[#ids + 1] = ARGV[i]
end
load_all(ids)
local reply, tell = {'ok'}, false
for i = 5, #ARGV, 6 do
	local it, lane, answer = load(ARGV[i]), ARGV[i + 1], {'ok'}
	if it and it.newer then
		answer = {'newer', it.newer}
	elseif not owned(it, lane, ARGV[i + 2]) then
		answer = {'lost'}
	elseif lane == 'run' then
		finish(it, T, ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
		tell = tell or it.cmax > 0 or it.order ~= ''
	else
		it.callback, it.called, it.ctoken, it.cworker, it.ctill = 'd', T, '', '', 0
		if ARGV[i + 3] == 'dead' then
			it.callback, it.creason = 'x', ARGV[i + 5]
		end
		save(it)
	end
	reply[#reply + 1] = answer
end
flush()
if tell then
	redis.pcall('PUBLISH', ARGV[3], ARGV[4])
end
return reply
