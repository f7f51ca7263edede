#!lua
-- Commits: checks all conditions, then does all writes and appends them to the log.
-- KEYS: 1 identity, 2 meta, 3 revisions, 4 values, 5 index, 6 log, 7 sizes of the log's entries
-- ARGV: 1 identity, 2 time, 3 the highest number that the caller has seen, 4 commits and 5 bytes that the log keeps,
--       6 number of conditions, then for each its key and revision; then for each write, in order of keys: '+' or '-', key, value
-- Returns {'ok', number, mark}, {'conflict', key, wanted, have} or {'rewound', number}.
local meta = redis.call('HMGET', KEYS[2], 'number', 'mark', 'bytes')
local number, mark = tonumber(meta[1] or '0'), meta[2] or ''
if number < tonumber(ARGV[3]) then
	return {'rewound', text(number)}
end
local first = 7 + 2 * ARGV[6]
for i = 7, first - 1, 2 do
	local have = redis.call('HGET', KEYS[3], ARGV[i]) or '0'
	if have ~= ARGV[i + 1] then
		return {'conflict', ARGV[i], ARGV[i + 1], have}
	end
end
local new = text(number + 1)
local parts, revisions, values, index, gone = {}, {}, {}, {}, {}
local function add(list, item)
	list[#list + 1] = item
end
for i = first, #ARGV, 3 do
	local op, key, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
	if op == '+' then
		add(revisions, key)
		add(revisions, new)
		add(values, key)
		add(values, value)
		add(index, 0)
		add(index, key)
	elseif redis.call('HEXISTS', KEYS[3], key) == 1 then
		add(gone, key)
		value = ''
	else
		op = nil
	end
	if op then
		add(parts, op .. struct.pack('>I4I4', #key, #value) .. key)
		add(parts, value)
	end
end
if #parts == 0 then
	return {'ok', text(number), mark}
end
-- Writes begin here. A call takes less than 8,000 arguments.
local function each(command, key, list)
	for i = 1, #list, 2000 do
		redis.call(command, key, unpack(list, i, math.min(i + 1999, #list)))
	end
end
each('HSET', KEYS[3], revisions)
each('HSET', KEYS[4], values)
each('ZADD', KEYS[5], index)
each('HDEL', KEYS[3], gone)
each('HDEL', KEYS[4], gone)
each('ZREM', KEYS[5], gone)
local changes = table.concat(parts)
redis.call('XADD', KEYS[6], new .. '-1', 'm', mark, 'c', changes)
local count = redis.call('RPUSH', KEYS[7], #changes + 64)
local bytes = tonumber(meta[3] or '0') + #changes + 64
local keep = count
-- One stays, so that who waits for it wakes.
while keep > 1 and (keep > tonumber(ARGV[4]) or bytes > tonumber(ARGV[5])) do
	bytes = bytes - redis.call('LPOP', KEYS[7])
	keep = keep - 1
end
if keep < count then
	redis.call('XTRIM', KEYS[6], 'MINID', text(number + 2 - keep) .. '-0')
end
redis.call('HSET', KEYS[2], 'number', new, 'mark', mark, 'bytes', text(bytes), 'floor', text(number + 1 - keep))
return {'ok', new, mark}
