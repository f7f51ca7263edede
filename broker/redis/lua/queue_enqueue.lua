#!lua
-- Enqueues batches of invocations: of each batch all that are new or none.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 channel to tell who waits, 4 the job, then for each invocation: terms, ID, payload. Terms are, each with a
--       space behind it: the limit of its batch if it is the first one of that, or 0; priority; delay in microseconds; attempts of the
--       callback (0: none); '+' if order, idempotency key and document of the callback come after the payload, or '-'; and then, packed as
--       they are in an item, attempts, time to live of the result, first and longest backoff
-- Returns {'ok', then for each batch: 0 if all were new, {'ok', then for each invocation 0 if it is new, 1 if it was known, or the ID of the
-- one that was known by its key}, {'full', unfinished, new}, {'newer', schema}, or {'settle', ID} for one that time has made unknown, for
-- which queue_settle has to run first. But for the first two nothing of the batch was enqueued}.
local ARGV, last, pack, format = ARGV, #ARGV, cmsgpack.pack, string.format

-- terms reads terms, which are the same for many. An item as it is packed is what comes before its seq, priority to longest, size, and what
-- comes after that; see FIELDS.
local read = {}
local function terms(packed)
	local limit, priority, delay, calls, more, rest = string.match(packed, '^(%d+) (%d+) (%d+) (%d+) ([+-]) (.*)$')
	local due = T + delay
	local o = {
		limit = tonumber(limit), priority = string.char(priority), rest = rest, due = due, score = (9 - priority) * 1e14, calls = calls ~= '0',
		more = more == '+', width = more == '+' and 6 or 3, place = due <= T and 'r' or 'd',
		last = pack(T, 0, due) .. '\160\160\0\160\0\160\0\160\0\0' .. (calls == '0' and '\160\160\0' or '\161p\160' .. pack(tonumber(calls)))
			.. '\0\0\160\160\0\160\0',
		size = -1, tail = '', -- of the last payload
	}
	read[packed] = o
	return o
end

local ids, count, i = {}, 0, 5
while i < last do
	local packed = ARGV[i]
	count = count + 1
	ids[count] = ARGV[i + 1]
	i = i + (read[packed] or terms(packed)).width
end
local found = get_all(ITEMS, ids)

-- state says what is known of an invocation: nil, or 1, and an answer if the batch cannot be enqueued.
local function state(id, packed)
	local it = packed and hold(id, packed)
	if not it then
		return nil
	elseif it.newer then
		return 1, {'newer', it.newer}
	elseif gone(it) then
		return 1, {'settle', id}
	end
	return 1
end

local meta = redis.call('HMGET', META, 'waiting', 'leased', 'dead', 'calls', 'seq')
local have, seq = (meta[1] or 0) + (meta[2] or 0) + (meta[3] or 0) + (meta[4] or 0), tonumber(meta[5] or 0)
local before = seq
local fresh, keys = {}, {} -- invocations that these batches add; their idempotency keys → invocation
local items, payloads, ready, delayed, n, ranked, late = {}, {}, {}, {}, 0, 0, 0
local reply, done, k = {'ok'}, 1, 1
i = 5
while k <= count do
	local begin, start, o, new, answer, refused = i, k, read[ARGV[i]], 0, nil, nil
	local limit = o.limit
	repeat
		local id, is, problem = ids[k], nil, nil
		if fresh[id] then
			is = 1
		elseif found[k] then
			is, problem = state(id, found[k])
		end
		if o.more and not is and ARGV[i + 4] ~= '' then
			local key = ARGV[i + 4]
			is = keys[key]
			if not is then
				local other = redis.call('HGET', IDEMPOTENCY, key)
				if other then
					is, problem = state(other, redis.call('HGET', ITEMS, other))
					is = is and other
				end
			end
			if not is then
				keys[key] = id
			end
		end
		if not is then
			new = new + 1
			fresh[id] = true
		else
			refused = refused or problem
			if not answer then
				answer = {'ok'}
				for known = start, k - 1 do
					answer[known - start + 2] = 0
				end
			end
		end
		if answer then
			answer[k - start + 2] = is or 0
		end
		i, k = i + o.width, k + 1
		o = read[ARGV[i]]
	until not o or o.limit > 0
	if not refused and new > 0 and have + new > limit then
		refused = {'full', have, new}
	end
	if not refused then
		have = have + new
	end
	local at = begin
	for mine = start, k - 1 do
		local id, o = ids[mine], read[ARGV[at]]
		if answer and answer[mine - start + 2] ~= 0 then -- it was known
		elseif refused then
			fresh[id] = nil
			if o.more then
				keys[ARGV[at + 4]] = nil
			end
		else
			local place, payload = o.place, ARGV[at + 2]
			seq = seq + 1
			if #payload ~= o.size then
				o.size = #payload
				o.tail = o.rest .. pack(o.size) .. o.last
			end
			local names = '\160\160'
			if o.more then
				local order, key = ARGV[at + 3], ARGV[at + 4]
				names = pack(order, key)
				if o.calls then
					redis.call('HSET', DOCUMENTS, id, ARGV[at + 5])
				end
				if key ~= '' then
					redis.call('HSET', IDEMPOTENCY, key, id)
				end
				if order ~= '' then
					local turn = turn_of(order, seq, id)
					redis.call('ZADD', ORDERS, 0, turn)
					if first_of(order) ~= turn then
						place = ''
					end
				end
			end
			-- An array of 35; schema, 'w', place.
			items[n + 1], items[n + 2] = id, (place == 'r' and '\220\0\35\1\161w\161r' or place == 'd' and '\220\0\35\1\161w\161d' or '\220\0\35\1\161w\160')
				.. pack(seq) .. o.priority .. names .. o.tail
			payloads[n + 1], payloads[n + 2] = id, payload
			n = n + 2
			if place == 'r' then
				ready[ranked + 1], ready[ranked + 2] = format('%d', o.score + seq), id
				ranked = ranked + 2
			elseif place == 'd' then
				delayed[late + 1], delayed[late + 2] = format('%d', o.due), id
				late = late + 2
			end
		end
		at = at + o.width
	end
	done = done + 1
	reply[done] = refused or answer or 0
end
if seq > before then
	give('HSET', ITEMS, items)
	give('HSET', PAYLOADS, payloads)
	give('ZADD', READY, ready)
	give('ZADD', DELAYED, delayed)
	redis.call('HSET', META, 'seq', text(seq), 'waiting', text((meta[1] or 0) + seq - before))
	redis.pcall('PUBLISH', ARGV[3], ARGV[4]) -- who may not publish, waits longer
end
return reply
