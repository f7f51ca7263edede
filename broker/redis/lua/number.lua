#!lua flags=no-writes
-- Answers the number of the last commit.
-- KEYS: 1 identity, 2 meta
-- ARGV: 1 identity, 2 time, 3 the highest number that the caller has seen
-- Returns {'ok', number, mark} or {'rewound', number}.
local meta = redis.call('HMGET', KEYS[2], 'number', 'mark')
local number = meta[1] or '0'
if tonumber(number) < tonumber(ARGV[3]) then
	return {'rewound', number}
end
return {'ok', number, meta[2] or ''}
