#!lua flags=no-writes
-- Answers some names.
-- KEYS: 1 identity, 2 names
-- ARGV: 1 identity, 2 time, 3 cursor, 4 about how many
-- Returns {'ok', next cursor or 0, name, when it was noted, name, …}.
local found = redis.call('HSCAN', KEYS[2], ARGV[3], 'COUNT', ARGV[4])
local reply = {'ok', found[1]}
for i, item in ipairs(found[2]) do
	reply[i + 2] = item
end
return reply
