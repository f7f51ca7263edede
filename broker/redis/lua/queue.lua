-- Comes after prelude.lua in each script whose name begins with queue_: what an invocation is, and where it stands.
--
-- KEYS of these scripts: 1 identity, then
--   2 meta       counts: waiting, leased, dead, calls; seq, the number of the last one enqueued or requeued
--   3 items      invocation → its fields, packed
--   4 payloads   invocation → payload, while it is needed
--   5 results    invocation → payload of its result, unless empty
--   6 documents  invocation → document of its callback
--   7 keys       idempotency key → invocation
--   8 ready      sorted: by priority, then seq
--   9 delayed    sorted by when they may be leased
--  10 leased     sorted by when the lease ends
--  11 calls      callbacks to deliver, sorted by when they may be leased
--  12 calling    callbacks leased, sorted by when the lease ends
--  13 expires    sorted by when they are forgotten
--  14 letters    dead letters, in order of their IDs
--  15 orders     "SHA-1 of the order:seq:invocation" of those that have not ended, in order of that
--
-- An invocation is in one of ready, delayed, leased and expires, or in none: behind another one of its order, a dead letter, or done
-- with a callback that is not over. Times are in microseconds. Lists of what a script returns do not repeat {'identity', have} and
-- {'newer', schema}, which is for a document of a newer version of the program.
local META, ITEMS, PAYLOADS, RESULTS, DOCUMENTS, IDEMPOTENCY, READY, DELAYED, LEASED, CALLS, CALLING, EXPIRES, LETTERS, ORDERS =
	KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local SCHEMA = 1
local T = now()

-- What an item has, in the order in which it is packed. scripts.go turns it.state and so on into places in the array it.f. New ones come
-- at the end, with a higher SCHEMA if old programs cannot do without. state is w(aiting), l(eased), d(one) or x (dead); callback is
-- empty, p(ending), d(one) or x (dead).
local FIELDS = {
	'schema', 'state', 'place', 'seq', 'priority', 'order', 'key', 'max', 'ttl', 'first', 'longest', 'size', 'enqueued',
	'attempts', 'due', 'token', 'worker', 'till', 'reason',
	'finished', 'outcome', 'result', 'why', 'letter', 'dropped',
	'callback', 'cplace', 'cmax', 'cattempts', 'cdue', 'ctoken', 'cworker', 'ctill', 'creason', 'called',
}

local function live(it) return it.state == 'w' or it.state == 'l' end

local function calling(it) return not live(it) and it.callback == 'p' end

-- category is under which of the counts it falls, if any.
local function category(it)
	if it.state == 'w' then
		return 'waiting'
	elseif it.state == 'l' then
		return 'leased'
	elseif it.letter == 1 then
		return 'dead'
	elseif it.callback == 'p' then
		return 'calls'
	end
end

-- What is to be written is gathered, and written by flush: many invocations take one command of each kind then. The last one that is said
-- of a field or a member holds. Each script that changes something flushes before it reads what it may have changed, and at its end.
local fields, members, counted = {}, {}, {}
local MOST = 1000 -- values in one command: a function of Lua takes a few thousand

-- put sets a field of a hash, or removes it if the value is false.
local function put(hash, field, value)
	local t = fields[hash]
	if not t then
		t = {}
		fields[hash] = t
	end
	t[field] = value
end

-- rank puts a member into a sorted set, or changes its score, or removes it if the score is false.
local function rank(set, member, score)
	local t = members[set]
	if not t then
		t = {}
		members[set] = t
	end
	t[member] = score
end

-- get reads a field; false if it is not there.
local function get(hash, field)
	local t = fields[hash]
	if t and t[field] ~= nil then
		return t[field]
	end
	return redis.call('HGET', hash, field)
end

-- get_all reads fields of which nothing was put, each false if it is not there.
local function get_all(hash, list)
	if #list <= MOST then
		return #list > 0 and redis.call('HMGET', hash, unpack(list)) or {}
	end
	local values = {}
	for i = 1, #list, MOST do
		for _, value in ipairs(redis.call('HMGET', hash, unpack(list, i, math.min(i + MOST - 1, #list)))) do
			values[#values + 1] = value
		end
	end
	return values
end

-- give runs a command on a key with all of a list's values.
local function give(command, key, list)
	for i = 1, #list, MOST do
		redis.call(command, key, unpack(list, i, math.min(i + MOST - 1, #list)))
	end
end

-- write_out writes what was gathered for keys. What sets something takes names and values in turns, the name at place 1 or 2 of the two.
local function write_out(gathered, set, remove, place)
	for key, t in pairs(gathered) do
		local sets, removed, n = {}, {}, 0
		for name, value in pairs(t) do
			if value then
				sets[n + place], sets[n + 3 - place] = name, value
				n = n + 2
			else
				removed[#removed + 1] = name
			end
		end
		give(set, key, sets)
		give(remove, key, removed)
		gathered[key] = nil
	end
end

local function flush()
	write_out(fields, 'HSET', 'HDEL', 1)
	write_out(members, 'ZADD', 'ZREM', 2)
	for name, n in pairs(counted) do
		if n ~= 0 then
			redis.call('HINCRBY', META, name, n)
		end
		counted[name] = nil
	end
end

local held = {} -- invocation → item that was read, or false if there is none

local function hold(id, packed)
	if not packed then
		held[id] = false
		return nil
	end
	local it = {id = id, f = cmsgpack.unpack(packed), was = false, wasletter = 0}
	if it.schema > SCHEMA then
		it = {newer = it.schema}
	else
		it.was, it.wasletter = category(it), it.letter
	end
	held[id] = it
	return it
end

-- load reads an item; nil if there is none. One of a newer schema has that alone. Read twice, it is the same one.
local function load(id)
	local it = held[id]
	if it ~= nil then
		return it or nil
	end
	return hold(id, redis.call('HGET', ITEMS, id))
end

-- load_all reads items ahead.
local function load_all(ids)
	for i, packed in ipairs(get_all(ITEMS, ids)) do
		if held[ids[i]] == nil then
			hold(ids[i], packed)
		end
	end
end

local PLACES = {r = READY, d = DELAYED, l = LEASED, e = EXPIRES, c = CALLS, k = CALLING}

local function expires(it)
	if live(it) or it.letter == 1 or it.callback == 'p' then
		return 0
	end
	return math.max(it.finished, it.called, it.dropped) + math.floor(it.ttl / 1000)
end

-- gone says that time has made it unknown.
local function gone(it)
	local at = expires(it)
	if calling(it) and it.letter == 0 and it.ctoken ~= '' and it.ctill <= T and it.cattempts >= it.cmax then
		at = math.max(it.finished, it.ctill, it.dropped) + math.floor(it.ttl / 1000)
	end
	return at > 0 and at <= T
end

-- lapsed says that time has changed it.
local function lapsed(it)
	return it.state == 'l' and it.till <= T or calling(it) and it.ctoken ~= '' and it.ctill <= T or gone(it)
end

local function turn_of(order, seq, id) return redis.sha1hex(order) .. ':' .. string.format('%016d', seq) .. ':' .. id end

local function turn(it) return turn_of(it.order, it.seq, it.id) end

local function first_of(order)
	local hash = redis.sha1hex(order)
	return redis.call('ZRANGEBYLEX', ORDERS, '[' .. hash .. ':', '(' .. hash .. ';', 'LIMIT', 0, 1)[1]
end

-- move takes an invocation from one place to another, or changes its score there. Answers the new place.
local function move(id, from, to, score)
	if from ~= '' and from ~= to then
		rank(PLACES[from], id, false)
	end
	if to ~= '' then
		rank(PLACES[to], id, text(score))
	end
	return to
end

-- save writes an item where it belongs.
local function save(it)
	if it.state == 'l' then
		it.place = move(it.id, it.place, 'l', it.till)
	elseif it.state ~= 'w' then
		local at = expires(it)
		it.place = move(it.id, it.place, at > 0 and 'e' or '', at)
	elseif it.order ~= '' and first_of(it.order) ~= turn(it) then
		it.place = move(it.id, it.place, '', 0)
	elseif it.due <= T then
		it.place = move(it.id, it.place, 'r', (9 - it.priority) * 1e14 + it.seq)
	else
		it.place = move(it.id, it.place, 'd', it.due)
	end
	if not calling(it) then
		it.cplace = move(it.id, it.cplace, '', 0)
	elseif it.ctoken == '' then
		it.cplace = move(it.id, it.cplace, 'c', it.cdue)
	else
		it.cplace = move(it.id, it.cplace, 'k', it.ctill)
	end
	if it.letter ~= it.wasletter then
		if it.letter == 1 then
			rank(LETTERS, it.id, 0)
		elseif it.wasletter == 1 then
			rank(LETTERS, it.id, false)
		end
		it.wasletter = it.letter
	end
	local is = category(it)
	if is ~= it.was then
		if it.was then
			counted[it.was] = (counted[it.was] or 0) - 1
		end
		if is then
			counted[is] = (counted[is] or 0) + 1
		end
		it.was = is
	end
	put(ITEMS, it.id, cmsgpack.pack(it.f))
end

-- forget removes an item of no category.
local function forget(it)
	it.place = move(it.id, it.place, '', 0)
	it.cplace = move(it.id, it.cplace, '', 0)
	for _, hash in ipairs({ITEMS, PAYLOADS, RESULTS, DOCUMENTS}) do
		put(hash, it.id, false)
	end
	if it.key ~= '' and get(IDEMPOTENCY, it.key) == it.id then
		put(IDEMPOTENCY, it.key, false)
	end
	held[it.id] = false
end

-- finish ends it, at a time that is not in the future.
local function finish(it, at, outcome, result, reason)
	it.token, it.worker, it.till = '', '', 0
	it.finished, it.outcome, it.result, it.why = at, outcome, #result, reason
	if outcome == 'dead' then
		it.state, it.letter, it.reason = 'x', 1, reason
	else
		it.state, it.letter, it.size = 'd', 0, 0
		put(PAYLOADS, it.id, false)
	end
	if result ~= '' then
		put(RESULTS, it.id, result)
	end
	if it.cmax > 0 then
		it.callback, it.cattempts, it.cdue, it.ctoken, it.cworker, it.ctill, it.creason = 'p', 0, at, '', '', 0, ''
	end
	if it.order ~= '' then
		redis.call('ZREM', ORDERS, turn(it))
		local next = first_of(it.order)
		next = next and load(string.sub(next, 59)) -- after 40 digits of the hash, 16 of seq and two colons
		if next and not next.newer and next.place == '' then -- and not if one is cancelled that was behind it
			next.due = math.max(next.due, at)
			save(next)
		end
	end
	save(it)
end

-- give_back ends an attempt without a result.
local function give_back(it, at, delay, reason, unstarted)
	if reason ~= '' then
		it.reason = reason
	end
	if unstarted then
		it.attempts = it.attempts - 1
	elseif it.attempts >= it.max then
		return finish(it, at, 'dead', '', it.reason)
	end
	it.token, it.worker, it.till = '', '', 0
	it.state, it.due = 'w', at + delay
	save(it)
end

local function give_back_call(it, at, delay, reason, unstarted)
	if reason ~= '' then
		it.creason = reason
	end
	if unstarted then
		it.cattempts = it.cattempts - 1
	elseif it.cattempts >= it.cmax then
		it.callback, it.called = 'x', at
	end
	it.ctoken, it.cworker, it.ctill, it.cdue = '', '', 0, at + delay
	save(it)
end

-- settle does what time has done to an item.
local function settle(it)
	if it.state == 'l' and it.till <= T then
		give_back(it, it.till, 0, 'attempt ' .. it.attempts .. ': its lease ran out', false)
	end
	if calling(it) and it.ctoken ~= '' and it.ctill <= T then
		give_back_call(it, it.ctill, 0, 'attempt ' .. it.cattempts .. ': its lease ran out', false)
	end
	if gone(it) then
		forget(it)
		return nil
	end
	return it
end

-- settle_some does what time has done to the job's items, up to a number of each kind. Answers an item of a newer schema, if it meets one.
local function settle_some(limit)
	for _, place in ipairs({LEASED, CALLING, EXPIRES, DELAYED}) do
		local ids = redis.call('ZRANGEBYSCORE', place, '-inf', text(T), 'LIMIT', 0, limit)
		if #ids > 0 then
			load_all(ids)
			for _, id in ipairs(ids) do
				local it = load(id)
				if it.newer then
					return it
				elseif place == DELAYED then
					save(it)
				else
					settle(it)
				end
			end
			flush()
		end
	end
end

-- owned says that a lease is current.
local function owned(it, lane, token)
	if not it or token == '' then
		return false
	elseif lane == 'run' then
		return it.state == 'l' and it.token == token and it.till > T
	end
	return calling(it) and it.ctoken == token and it.ctill > T
end

-- status is what is told of an item; payloads apart.
local function status(it)
	return {
		it.id, it.state, it.attempts, it.max, it.priority, it.order, it.key, it.enqueued, it.due, it.worker, it.till, it.reason,
		it.finished, it.callback, it.cattempts, it.creason, expires(it), it.size, it.result,
		it.ttl, it.first, it.longest, it.cmax, it.outcome, it.why, it.letter,
	}
end

