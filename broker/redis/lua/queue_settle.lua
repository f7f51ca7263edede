#!lua flags=allow-oom
-- Does what time has done to one invocation. It may run when memory is short: it stores nothing that was not there.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 invocation
-- Returns {'ok'}.
local it = load(ARGV[3])
if it and it.newer then
	return {'newer', it.newer}
elseif it then
	settle(it)
	flush()
end
return {'ok'}
