#!lua
-- Enqueues batches of invocations: of each batch all that are new or none.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 channel to tell who waits, 4 the job, then for each batch: limit, how many invocations, and for each of them
--       ID, payload, terms: priority, delay in microseconds, attempts, first and longest backoff and time to live of the result in
--       nanoseconds, attempts of the callback (0: none), separated by spaces; and if a '+' follows the last of these: order, idempotency
--       key, document of the callback
-- Returns {'ok', then for each batch: 0 if all were new, {'ok', then for each invocation 0 if it is new, 1 if it was known, or the ID of the
-- one that was known by its key}, {'full', unfinished, new}, {'newer', schema}, or {'settle', ID} for one that time has made unknown, for
-- which queue_settle has to run first. But for the first two nothing of the batch was enqueued}.
local ARGV, last = ARGV, #ARGV

-- terms reads terms, which are the same for many.
local read = {}
local function terms(packed)
	local priority, delay, max, first, longest, ttl, calls, more =
		string.match(packed, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)(%+?)$')
	local o = {
		priority = tonumber(priority), due = T + delay, max = tonumber(max), first = tonumber(first), longest = tonumber(longest),
		ttl = tonumber(ttl), calls = tonumber(calls), width = more == '' and 3 or 6, more = more ~= '',
	}
	o.score = (9 - o.priority) * 1e14
	o.place = o.due <= T and 'r' or 'd'
	-- An item as it is packed is what comes before its seq, priority to longest, size, and what comes after that; see FIELDS.
	o.middle = cmsgpack.pack(o.priority, '', '', o.max, o.ttl, o.first, o.longest)
	o.last = cmsgpack.pack(T, 0, o.due, '', '', 0, '', 0, '', 0, '', 0, 0, o.calls > 0 and 'p' or '', '', o.calls, 0, 0, '', '', 0, '', 0)
	read[packed] = o
	return o
end

local ids, count, i = {}, 0, 5
while i < last do
	local end_of_batch = count + ARGV[i + 1]
	i = i + 2
	while count < end_of_batch do
		count = count + 1
		ids[count] = ARGV[i]
		local packed = ARGV[i + 2]
		i = i + (read[packed] or terms(packed)).width
	end
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
local reply, done = {'ok'}, 0
count, i = 0, 5
while i < last do
	local limit, batch, begin = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), i + 2
	local answer, new, refused = {'ok'}, 0, nil
	i = begin
	for k = 1, batch do
		count = count + 1
		local id, o = ARGV[i], read[ARGV[i + 2]]
		local is, problem
		if fresh[id] then
			is = 1
		else
			is, problem = state(id, found[count])
		end
		local key = o.more and ARGV[i + 4] or ''
		if not is and key ~= '' then
			is = keys[key]
			if not is then
				local other = redis.call('HGET', IDEMPOTENCY, key)
				if other then
					is, problem = state(other, redis.call('HGET', ITEMS, other))
					is = is and other
				end
			end
		end
		refused = refused or problem
		if not is then
			is, new = 0, new + 1
			fresh[id] = i
			if key ~= '' then
				keys[key] = id
			end
		end
		answer[k + 1] = is
		i = i + o.width
	end
	if not refused and new > 0 and have + new > limit then
		refused = {'full', have, new}
	end
	have = have + (refused and 0 or new)
	local at = begin
	for k = 1, batch do
		local id, o = ARGV[at], read[ARGV[at + 2]]
		if answer[k + 1] ~= 0 then -- it was known
		elseif refused then
			fresh[id] = nil
			if o.more then
				keys[ARGV[at + 4]] = nil
			end
		else
			local place, middle, payload = o.place, o.middle, ARGV[at + 1]
			seq = seq + 1
			if o.more then
				local order, key = ARGV[at + 3], ARGV[at + 4]
				middle = cmsgpack.pack(o.priority, order, key, o.max, o.ttl, o.first, o.longest)
				if o.calls > 0 then
					redis.call('HSET', DOCUMENTS, id, ARGV[at + 5])
				end
				if key ~= '' then
					redis.call('HSET', IDEMPOTENCY, key, id)
				end
				if order ~= '' then
					local mine = turn_of(order, seq, id)
					redis.call('ZADD', ORDERS, 0, mine)
					if first_of(order) ~= mine then
						place = ''
					end
				end
			end
			-- An array of 35; schema, 'w', place.
			items[n + 1], items[n + 2] = id, (place == 'r' and '\220\0\35\1\161w\161r' or place == 'd' and '\220\0\35\1\161w\161d' or '\220\0\35\1\161w\160')
				.. cmsgpack.pack(seq) .. middle .. cmsgpack.pack(#payload) .. o.last
			payloads[n + 1], payloads[n + 2] = id, payload
			n = n + 2
			if place == 'r' then
				ready[ranked + 1], ready[ranked + 2] = text(o.score + seq), id
				ranked = ranked + 2
			elseif place == 'd' then
				delayed[late + 1], delayed[late + 2] = text(o.due), id
				late = late + 2
			end
		end
		at = at + o.width
	end
	done = done + 1
	reply[done + 1] = refused or new == batch and 0 or answer
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
