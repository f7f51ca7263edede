#!lua
-- Enqueues invocations, all that are new or none.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 limit, 4 channel to tell who waits, 5 the job, then for each invocation: ID, payload, priority, order,
--       delay in microseconds, idempotency key, attempts, first and longest backoff and time to live of the result in nanoseconds,
--       attempts of the callback (0: none), its document
-- Returns {'ok', then for each invocation 1 if it was known or 0, the ID it goes by} or {'full', unfinished, new}.
local WIDTH = 12
local reply, fresh, keys, new, past, seen = {'ok'}, {}, {}, {}, {}, {}
local function known(id)
	local it = load(id)
	if not it or it.newer then
		return it
	elseif gone(it) then
		if not seen[id] then
			seen[id] = true
			past[#past + 1] = it
		end
		return nil
	end
	return it
end
for i = 6, #ARGV, WIDTH do
	local id, key, by = ARGV[i], ARGV[i + 5], ARGV[i]
	local it = not fresh[id] and known(id)
	local is = fresh[id] or it
	if not is and key ~= '' then
		if keys[key] then
			is, by = true, keys[key]
		else
			local other = redis.call('HGET', IDEMPOTENCY, key)
			it = other and known(other)
			if it then
				is, by = true, other
			end
		end
	end
	if it and it.newer then
		return {'newer', it.newer}
	end
	if not is then
		fresh[id] = true
		new[#new + 1] = i
		if key ~= '' then
			keys[key] = id
		end
	end
	reply[#reply + 1] = is and 1 or 0
	reply[#reply + 1] = by
end
local meta = redis.call('HMGET', META, 'waiting', 'leased', 'dead', 'calls')
local have = (meta[1] or 0) + (meta[2] or 0) + (meta[3] or 0) + (meta[4] or 0)
for _, it in ipairs(past) do
	if it.was then -- its callback ended in time
		have = have - 1
	end
end
if #new > 0 and have + #new > tonumber(ARGV[3]) then
	return {'full', have, #new}
end
for _, it in ipairs(past) do
	settle(it)
end
if #new > 0 then
	local seq = redis.call('HINCRBY', META, 'seq', #new) - #new
	for n, i in ipairs(new) do
		local it = {id = ARGV[i], was = false, wasletter = 0, f = {
			SCHEMA, 'w', '', 0, 0, '', '', 0, 0, 0, 0, 0, 0, 0, 0, '', '', 0, '', 0, '', 0, '', 0, 0, '', '', 0, 0, 0, '', '', 0, '', 0,
		}}
		it.seq, it.enqueued, it.size = seq + n, T, #ARGV[i + 1]
		it.priority, it.order, it.due, it.key = tonumber(ARGV[i + 2]), ARGV[i + 3], T + ARGV[i + 4], ARGV[i + 5]
		it.max, it.first, it.longest, it.ttl = tonumber(ARGV[i + 6]), tonumber(ARGV[i + 7]), tonumber(ARGV[i + 8]), tonumber(ARGV[i + 9])
		it.cmax = tonumber(ARGV[i + 10])
		if it.cmax > 0 then
			it.callback = 'p'
			redis.call('HSET', DOCUMENTS, it.id, ARGV[i + 11])
		end
		if it.key ~= '' then
			redis.call('HSET', IDEMPOTENCY, it.key, it.id)
		end
		if it.order ~= '' then
			redis.call('ZADD', ORDERS, 0, turn(it))
		end
		redis.call('HSET', PAYLOADS, it.id, ARGV[i + 1])
		save(it)
	end
	redis.pcall('PUBLISH', ARGV[4], ARGV[5]) -- who may not publish, waits longer
end
return reply
