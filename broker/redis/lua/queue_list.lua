#!lua flags=no-writes
-- Lists invocations that wait or are leased, in one of the places where they are.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 the place: 'l', 'r', 'd' or 'b', for those behind another one of their order, 4 score and 5 member there of the
--       one to go on after; an empty member: none, 6 at most so many, 7 at most so many to look at
-- Returns {'ok', 1 if there are no more in the place or 0, score and member of the last one that was looked at, then for each its status (26
-- elements)}.
local place, score, member, most, looks = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local members, scores, ids = {}, {}, {}
if place == 'b' then
	members = redis.call('ZRANGEBYLEX', ORDERS, member == '' and '-' or '(' .. member, '+', 'LIMIT', 0, looks)
	for i, m in ipairs(members) do
		ids[i] = string.sub(m, 59) -- see finish
	end
else
	local from = 0
	if member ~= '' then
		-- One that is not there any more, or has gone elsewhere in the place, leaves its score: those that share it may come again.
		if tonumber(redis.call('ZSCORE', PLACES[place], member) or -1) == tonumber(score) then
			from = redis.call('ZRANK', PLACES[place], member) + 1
		else
			from = redis.call('ZCOUNT', PLACES[place], '-inf', '(' .. score)
		end
	end
	looks = math.min(looks, most)
	local found = redis.call('ZRANGE', PLACES[place], from, from + looks - 1, 'WITHSCORES')
	for i = 1, #found, 2 do
		members[#members + 1], scores[#scores + 1] = found[i], found[i + 1]
	end
	ids = members
end
load_all(ids)
local reply, taken, last = {'ok', #members < looks and 1 or 0, '0', ''}, 0, 0
for i, id in ipairs(ids) do
	local it = load(id)
	if it and it.newer then
		return {'newer', it.newer}
	end
	-- The first one of an order is in another place.
	if it and (place ~= 'b' or it.state == 'w' and it.place == '') then
		if taken == most then
			reply[2] = 0
			break
		end
		taken = taken + 1
		for _, v in ipairs(status(it)) do
			reply[#reply + 1] = v
		end
	end
	last = i
end
if last > 0 then
	reply[3], reply[4] = text(scores[last] or 0), members[last]
end
return reply
