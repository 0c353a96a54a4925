"""What the queue does in one step inside Redis: each script runs whole or not at all.

KEYS[1] is the stream everywhere. Reply keys are passed as keys too, so that a namespace in braces
keeps all of them on one shard of a cluster.
"""

from __future__ import annotations

_DONE = """
-- Gives a reply unless the caller has put something at its key that is no list.
local function give(key, reply, ttl_ms)
  local length = redis.pcall('RPUSH', key, reply)
  if type(length) == 'number' then redis.call('PEXPIRE', key, ttl_ms) end
end
-- True for exactly one of those who call it for a message: the others come too late.
local function acknowledged(group, id)
  return redis.pcall('XACK', KEYS[1], group, id) == 1
end
"""

PUBLISH = """
-- ARGV: max_backlog, then the fields. A finished message is deleted, so the length is the backlog.
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return false end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
"""

CLAIM = """
-- ARGV: group, consumer, min_idle_ms, cursor. One message of the silent becomes this consumer's, no
-- more: others would be counted as tried, if this one kills whoever tries it. Returns the next
-- cursor and (id, fields, deliveries) of it, if there was one.
local found = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', 1)
local claimed = {}
for i, entry in ipairs(found[2]) do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)
  claimed[i] = {entry[1], entry[2], pending[1][4]}
end
return {found[1], claimed}
"""

SHED = """
-- ARGV: group, consumer, most that may wait, most to take. Of what waits past that, the oldest
-- become this consumer's, to be refused; deleted before they are read, they would leave the lag
-- that Redis tells unknown. Returns (id, fields) of each.
local in_hand = redis.call('XPENDING', KEYS[1], ARGV[1])[1]
local past = redis.call('XLEN', KEYS[1]) - in_hand - tonumber(ARGV[3])
if past <= 0 then return {} end
local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2],
  'COUNT', math.min(past, tonumber(ARGV[4])), 'STREAMS', KEYS[1], '>')
return found and found[1][2] or {}
"""

RENEW = """
-- ARGV: group, consumer, then ids. Renews what is still this consumer's; returns how many: none
-- where the database was emptied meanwhile, group and all.
local renewed = 0
for i = 3, #ARGV do
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if pending.err then
    if string.sub(pending.err, 1, 7) == 'NOGROUP' then return 0 end
    return pending
  end
  if pending[1] and pending[1][2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
    renewed = renewed + 1
  end
end
return renewed
"""

PUT_BACK = """
-- ARGV: group, consumer, id, idle ms, deliveries. What is still this consumer's is as one that was
-- delivered so often and has been silent for so long; returns 1 then.
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if pending.err then
  if string.sub(pending.err, 1, 7) == 'NOGROUP' then return 0 end
  return pending
end
if not pending[1] or pending[1][2] ~= ARGV[2] then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', ARGV[4],
  'RETRYCOUNT', ARGV[5], 'JUSTID')
return 1
"""

FINISH = (
    _DONE
    + """
-- KEYS: the stream, then a reply key for each message (the stream again where there is no reply).
-- ARGV: group, reply ttl in ms, then (id, '1' if there is a reply, reply) of each message.
local finished = 0
for i = 2, #KEYS do
  local id, replied, reply = unpack(ARGV, 3 * i - 3, 3 * i - 1)
  if acknowledged(ARGV[1], id) then
    redis.call('XDEL', KEYS[1], id)
    if replied == '1' then give(KEYS[i], reply, ARGV[2]) end
    finished = finished + 1
  end
end
return finished
"""
)

BURY = (
    _DONE
    + """
-- KEYS: the stream, the dead letters, the reply key (the stream again where there is no reply).
-- ARGV: group, reply ttl in ms, most dead letters, most bytes of one, id, reason, deliveries,
-- '1' or '', reply.
if not acknowledged(ARGV[1], ARGV[5]) then return 0 end
local entry = redis.call('XRANGE', KEYS[1], ARGV[5], ARGV[5])[1]
redis.call('XDEL', KEYS[1], ARGV[5])
if entry then
  -- Of an absurd entry the first 100 fields are kept: Lua cannot pass on thousands.
  local kept, size, left = {}, 0, tonumber(ARGV[4])
  for i, part in ipairs(entry[2]) do
    size = size + #part
    if i <= 200 then
      kept[i] = string.sub(part, 1, left)
      left = left - #kept[i]
    end
  end
  local reason, cut = ARGV[6], ''
  if #entry[2] > 200 or size > tonumber(ARGV[4]) then
    cut = '1'
    reason = reason .. '; it is cut, and had ' .. size .. ' bytes in ' .. #entry[2] / 2 .. ' fields'
  end
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*',
    'id', ARGV[5], 'reason', reason, 'deliveries', ARGV[7], 'cut', cut, unpack(kept))
end
if ARGV[8] == '1' then give(KEYS[3], ARGV[9], ARGV[2]) end
return 1
"""
)

LIST = """
-- ARGV: count. The newest entries, their fields in order; redis-py would merge those of one name.
return redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[1])
"""

REVIVE = """
-- KEYS: the stream, the dead letters. ARGV: ids of dead letters. Puts those that are whole back
-- into the stream, without their deadlines, which are long over; returns how many.
local revived = 0
for _, id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', KEYS[2], id, id)[1]
  if entry and entry[2][8] == '' then
    local fields = {}
    for i = 9, #entry[2], 2 do
      if entry[2][i] ~= 'deadline_ms' then
        table.insert(fields, entry[2][i])
        table.insert(fields, entry[2][i + 1])
      end
    end
    if #fields > 0 then redis.call('XADD', KEYS[1], '*', unpack(fields)) end
    redis.call('XDEL', KEYS[2], id)
    revived = revived + 1
  end
end
return revived
"""

PRUNE = """
-- ARGV: group, idle ms. Consumers that hold nothing and were not heard of for long are forgotten.
for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #each, 2 do consumer[each[i]] = each[i + 1] end
  if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
  end
end
return 1
"""
