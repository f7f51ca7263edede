#!lua flags=allow-oom
-- Notes that a server was started, or has become the master: the history gets a new mark, so that revisions which were lost
-- are not mistaken for those that come. It may run when memory is short: what it writes does not grow.
-- KEYS: 1 identity, 2 meta of the records
-- ARGV: 1 identity, 2 time, 3 run id of the server, 4 random mark
-- Returns {'ok', number, mark}.
local meta = redis.call('HMGET', KEYS[2], 'run', 'mark', 'number', 'marks')
local number, mark = meta[3] or '0', meta[2]
if meta[1] == ARGV[3] then
	return {'ok', number, mark}
end
local marks = meta[4] or ''
if mark then
	marks = mark .. ':' .. number .. ' ' .. marks
	-- The last 32 are enough: the log forgets sooner.
	local count, cut = 0, 0
	for p in string.gmatch(marks, '() ') do
		count, cut = count + 1, p
		if count == 32 then
			break
		end
	end
	marks = string.sub(marks, 1, cut)
end
redis.call('HSET', KEYS[2], 'run', ARGV[3], 'mark', ARGV[4], 'number', number, 'marks', marks)
return {'ok', number, ARGV[4]}
