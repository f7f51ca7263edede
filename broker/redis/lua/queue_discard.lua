#!lua flags=allow-oom
-- Ends a dead letter's keeping. It may run when memory is short: it makes room.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 invocation
-- Returns {'ok'} or {'missing'}.
local it = load(ARGV[3])
if it and it.newer then
	return {'newer', it.newer}
elseif not it or it.letter ~= 1 then
	return {'missing'}
end
put(PAYLOADS, it.id, false)
it.letter, it.dropped, it.size = 0, T, 0
save(it)
flush()
return {'ok'}
