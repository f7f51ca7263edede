#!lua flags=no-writes
-- Reads an invocation.
-- KEYS: see queue.lua
-- ARGV: 1 identity, 2 time, 3 invocation, 4 what of it: 'status', 'result' (of one that has ended) or 'letter' (a dead letter as it was
--       enqueued)
-- Returns {'ok', its status (26 elements), payload of the result or the invocation, document of the callback}, {'missing'}, or
-- {'settle'} if time has changed it, for which queue_settle has to run first.
local it = load(ARGV[3])
if not it then
	return {'missing'}
elseif it.newer then
	return {'newer', it.newer}
elseif lapsed(it) then
	return {'settle'}
end
local payload, document = '', ''
if ARGV[4] == 'result' then
	if live(it) then
		return {'missing'}
	end
	payload = redis.call('HGET', RESULTS, it.id) or ''
elseif ARGV[4] == 'letter' then
	if it.letter ~= 1 then
		return {'missing'}
	end
	payload, document = redis.call('HGET', PAYLOADS, it.id) or '', redis.call('HGET', DOCUMENTS, it.id) or ''
end
local reply = {'ok'}
for _, v in ipairs(status(it)) do
	reply[#reply + 1] = v
end
reply[#reply + 1] = payload
reply[#reply + 1] = document
return reply
