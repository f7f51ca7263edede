#!lua flags=no-writes
-- Lists dead letters in order of their IDs.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 the range's beginning as for ZRANGEBYLEX, 4 at most so many
-- Returns {'ok', then for each its status (26 elements)}.
local reply = {'ok'}
for _, id in ipairs(redis.call('ZRANGEBYLEX', LETTERS, ARGV[3], '+', 'LIMIT', 0, ARGV[4])) do
	local it = load(id)
	if it.newer then
		return {'newer', it.newer}
	end
	for _, v in ipairs(status(it)) do
		reply[#reply + 1] = v
	end
end
return reply
