#!lua
-- Lets leases last for their time to live from now.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, then for each: invocation, lane, token, time to live in microseconds
-- Returns {'ok', then for each {'ok', until}, {'lost'} or {'newer', schema}}.
local ids = {}
for i = 3, #ARGV, 4 do
	ids[#ids + 1] = ARGV[i]
end
load_all(ids)
local reply = {'ok'}
for i = 3, #ARGV, 4 do
	local it, answer = load(ARGV[i]), nil
	if it and it.newer then
		answer = {'newer', it.newer}
	elseif not owned(it, ARGV[i + 1], ARGV[i + 2]) then
		answer = {'lost'}
	else
		local till = T + ARGV[i + 3]
		if ARGV[i + 1] == 'run' then
			it.till = till
		else
			it.ctill = till
		end
		save(it)
		answer = {'ok', text(till)}
	end
	reply[#reply + 1] = answer
end
flush()
return reply
