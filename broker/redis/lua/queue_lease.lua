#!lua
-- Leases invocations or callbacks that are ready.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 worker, 4 lane, 5 at most so many, 6 time to live in microseconds, 7 random text, 8 at most so many bytes of
--       payloads, 9 1 if one is to be answered whatever its size
-- Returns {'ok', 1 if the bound in bytes was met or 0, until, then for each: invocation, payload, token, terms: priority, attempts that it
-- may have, first and longest backoff and time to live of the result in nanoseconds, attempts that its callback may have (0: none), attempt,
-- when it was enqueued, separated by spaces; and if a '+' follows the last of these: order, idempotency key, document of the callback}.
local newer = settle_some(1000)
if newer then
	return {'newer', newer.newer}
end
local lane, max, till = ARGV[4], tonumber(ARGV[5]), T + ARGV[6]
local ids
if lane == 'run' then
	ids = redis.call('ZRANGE', READY, 0, max - 1)
else
	ids = redis.call('ZRANGEBYSCORE', CALLS, '-inf', text(T), 'LIMIT', 0, max)
	if #ids == max then -- of those that are ready since one moment, the first enqueued come first
		local last = redis.call('ZSCORE', CALLS, ids[max])
		local have = {}
		for _, id in ipairs(ids) do
			have[id] = true
		end
		for _, id in ipairs(redis.call('ZRANGEBYSCORE', CALLS, last, last, 'LIMIT', 0, 2000)) do
			if not have[id] then
				ids[#ids + 1] = id
			end
		end
	end
end
load_all(ids)
local items = {}
for i, id in ipairs(ids) do
	items[i] = load(id)
	if items[i].newer then
		return {'newer', items[i].newer}
	end
end
if lane ~= 'run' then
	table.sort(items, function(a, b)
		if a.cdue ~= b.cdue then
			return a.cdue < b.cdue
		end
		return a.seq < b.seq
	end)
end
local reply, bytes, taken = {'ok', 0, till}, 0, {}
for i = 1, math.min(max, #items) do
	local it = items[i]
	if lane == 'run' then
		if bytes + it.size > tonumber(ARGV[8]) and not (i == 1 and ARGV[9] == '1') then
			reply[2] = 1
			break
		end
		bytes = bytes + it.size
	end
	taken[i] = it.id
end
local payloads = lane == 'run' and get_all(PAYLOADS, taken) or {}
for i, id in ipairs(taken) do
	local it, token, attempt = items[i], ARGV[7] .. i, nil
	if lane == 'run' then
		it.attempts = it.attempts + 1
		it.state, it.token, it.worker, it.till, attempt = 'l', token, ARGV[3], till, it.attempts
	else
		it.cattempts = it.cattempts + 1
		it.ctoken, it.cworker, it.ctill, attempt = token, ARGV[3], till, it.cattempts
	end
	save(it)
	local n = #reply
	local more = it.order ~= '' or it.key ~= '' or it.cmax > 0
	reply[n + 1], reply[n + 2], reply[n + 3] = id, payloads[i] or '', token
	reply[n + 4] = string.format('%d %d %d %d %d %d %d %d', it.priority, it.max, it.first, it.longest, it.ttl, it.cmax, attempt, it.enqueued)
		.. (more and '+' or '')
	if more then
		reply[n + 5], reply[n + 6], reply[n + 7] = it.order, it.key, it.cmax > 0 and get(DOCUMENTS, id) or ''
	end
end
flush()
return reply
