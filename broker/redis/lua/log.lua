#!lua flags=no-writes
-- Reads commits after a revision from the log.
-- KEYS: 1 identity, 2 meta, 3 log
-- ARGV: 1 identity, 2 time, 3 the highest number that the caller has seen, 4 number and 5 mark of the revision, 6 at most so many,
--       7 at most so many bytes, but one at least
-- Returns {'ok', number, mark, id, mark, changes, id, …}, {'compacted'} if what follows the revision is not known, or
-- {'rewound', number}.
local meta = redis.call('HMGET', KEYS[2], 'number', 'mark', 'floor', 'marks')
local number, mark = tonumber(meta[1] or '0'), meta[2] or ''
if number < tonumber(ARGV[3]) then
	return {'rewound', text(number)}
end
local from, last = tonumber(ARGV[4]), number
if ARGV[5] ~= mark and not (from == 0 and ARGV[5] == '') then
	last = -1
	for m, to in string.gmatch(meta[4] or '', '([^: ]+):(%d+) ') do
		if m == ARGV[5] then
			last = tonumber(to)
			break
		end
	end
end
if from > last or from < tonumber(meta[3] or '0') then
	return {'compacted'}
end
local reply, bytes = {'ok', text(number), mark}, 0
if tonumber(ARGV[6]) > 0 then
	for _, entry in ipairs(redis.call('XRANGE', KEYS[3], text(from + 1) .. '-0', '+', 'COUNT', ARGV[6])) do
		if bytes >= tonumber(ARGV[7]) then
			break
		end
		reply[#reply + 1] = entry[1]
		reply[#reply + 1] = entry[2][2]
		reply[#reply + 1] = entry[2][4]
		bytes = bytes + #entry[2][4]
	end
end
return reply
