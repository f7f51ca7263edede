#!lua
-- Gives invocations, or their callbacks, back, each under a lease that is current.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 channel, 4 the job, then for each: invocation, lane, token, delay in microseconds, reason, 1 if nothing of it
--       has begun
-- Returns {'ok', then for each {'ok'}, {'lost'} or {'newer', schema}}.
local reply, tell = {'ok'}, false
for i = 5, #ARGV, 6 do
	local it, answer = load(ARGV[i]), {'ok'}
	if it and it.newer then
		answer = {'newer', it.newer}
	elseif not owned(it, ARGV[i + 1], ARGV[i + 2]) then
		answer = {'lost'}
	else
		local back = ARGV[i + 1] == 'run' and give_back or give_back_call
		back(it, T, tonumber(ARGV[i + 3]), ARGV[i + 4], ARGV[i + 5] == '1')
		tell = true
	end
	reply[#reply + 1] = answer
end
flush()
if tell then
	redis.pcall('PUBLISH', ARGV[3], ARGV[4])
end
return reply
