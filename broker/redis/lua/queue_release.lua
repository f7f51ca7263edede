#!lua
-- Gives an invocation, or its callback, back under a lease that is current.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 invocation, 4 lane, 5 token, 6 delay in microseconds, 7 reason, 8 1 if nothing of it has begun, 9 channel,
--       10 the job
-- Returns {'ok'} or {'lost'}.
local it = load(ARGV[3])
if it and it.newer then
	return {'newer', it.newer}
elseif not owned(it, ARGV[4], ARGV[5]) then
	return {'lost'}
end
local back = ARGV[4] == 'run' and give_back or give_back_call
back(it, T, tonumber(ARGV[6]), ARGV[7], ARGV[8] == '1')
redis.pcall('PUBLISH', ARGV[9], ARGV[10])
return {'ok'}
