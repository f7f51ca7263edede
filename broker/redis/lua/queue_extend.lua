#!lua
-- Lets a lease last for its time to live from now.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 invocation, 4 lane, 5 token, 6 time to live in microseconds
-- Returns {'ok', until} or {'lost'}.
local it = load(ARGV[3])
if it and it.newer then
	return {'newer', it.newer}
elseif not owned(it, ARGV[4], ARGV[5]) then
	return {'lost'}
end
local till = T + ARGV[6]
if ARGV[4] == 'run' then
	it.till = till
else
	it.ctill = till
end
save(it)
return {'ok', text(till)}
