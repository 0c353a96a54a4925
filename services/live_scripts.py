"""What happens to live items in one step inside Redis: each script runs whole or not at all.

KEYS everywhere: the items, the deleted, the changes, the number, the generation; those of a space
are made of the first one and its name.
"""

from __future__ import annotations

from encoders.catalog import SPACES

BACKLOG_FULL, LIVE_FULL = -1, -2

_CHANGED = f"""
local spaces = {{{", ".join(map(repr, SPACES))}}}
local function changed(id)
  local number = redis.call('INCR', KEYS[4])
  redis.call('ZADD', KEYS[3], number, id)
  return number
end
"""

_ROW = """
-- id, number, '<put> <JSON>' or '', then for each space the state and the vector, '' for none.
local function row(id, number, first)
  local found = {id, number, redis.call('HGET', KEYS[1], id) or ''}
  for i = first, #ARGV do
    found[#found + 1] = redis.call('HGET', KEYS[1] .. ':states:' .. ARGV[i], id) or ''
    found[#found + 1] = redis.call('HGET', KEYS[1] .. ':vectors:' .. ARGV[i], id) or ''
  end
  return found
end
"""

PUT = (
    _CHANGED
    + """
-- KEYS[6]: the stream. ARGV: most live, most waiting, then (id, JSON) of each. The states of a
-- former content go; its vectors stay, and are found, until the new ones are there.
if redis.call('XLEN', KEYS[6]) >= tonumber(ARGV[2]) then return -1 end
local live = redis.call('HLEN', KEYS[1])
for i = 3, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0 then live = live + 1 end
end
if live > tonumber(ARGV[1]) then return -2 end
local named, number = {}, 0
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  number = changed(id)
  redis.call('HSET', KEYS[1], id, number .. ' ' .. ARGV[i + 1])
  redis.call('SREM', KEYS[2], id)
  for _, space in ipairs(spaces) do
    redis.call('HDEL', KEYS[1] .. ':states:' .. space, id)
  end
  named[id] = number
end
redis.call('XADD', KEYS[6], '*', 'body', cjson.encode({items = named}))
return number
"""
)

PUT_BACK = (
    _CHANGED
    + """
-- KEYS[6]: the stream. ARGV: most live, then (id, JSON) of each. As PUT, of those that are neither
-- live nor deleted, as far as there is room. Returns how many, and for how many there was none.
local live, named, back, left = redis.call('HLEN', KEYS[1]), {}, 0, 0
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  if redis.call('HEXISTS', KEYS[1], id) == 0 and redis.call('SISMEMBER', KEYS[2], id) == 0 then
    if live + back < tonumber(ARGV[1]) then
      named[id] = changed(id)
      redis.call('HSET', KEYS[1], id, named[id] .. ' ' .. ARGV[i + 1])
      back = back + 1
    else
      left = left + 1
    end
  end
end
if back > 0 then redis.call('XADD', KEYS[6], '*', 'body', cjson.encode({items = named})) end
return {back, left}
"""
)

DELETE = (
    _CHANGED
    + """
-- ARGV: most deleted, id.
local id = ARGV[2]
if redis.call('SISMEMBER', KEYS[2], id) == 0
    and redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[1]) then return -2 end
redis.call('HDEL', KEYS[1], id)
for _, space in ipairs(spaces) do
  redis.call('HDEL', KEYS[1] .. ':states:' .. space, id)
  redis.call('HDEL', KEYS[1] .. ':vectors:' .. space, id)
end
redis.call('SADD', KEYS[2], id)
return changed(id)
"""
)

STORE = (
    _CHANGED
    + """
-- ARGV: the space, then (id, number of the put, vector or '', state) of each. A vector of before
-- stays, and is found, while the item waits for the next one.
local stored = 0
for i = 2, #ARGV, 4 do
  local id, put, vector, state = unpack(ARGV, i, i + 3)
  local record = redis.call('HGET', KEYS[1], id)
  if record and string.sub(record, 1, #put + 1) == put .. ' ' then
    redis.call('HSET', KEYS[1] .. ':states:' .. ARGV[1], id, state)
    if vector ~= '' then
      redis.call('HSET', KEYS[1] .. ':vectors:' .. ARGV[1], id, vector)
    elseif string.sub(state, 1, 7) ~= 'pending' then
      redis.call('HDEL', KEYS[1] .. ':vectors:' .. ARGV[1], id)
    end
    changed(id)
    stored = stored + 1
  end
end
return stored
"""
)

CHANGES = (
    _ROW
    + """
-- ARGV: the number after which, how many at most, then the spaces. Returns the number up to which
-- these are all the changes, the generation, and the rows. The generation names the server's run,
-- too: one that was killed may come back without its newest changes, and give their numbers to
-- others.
local found = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[1], '+inf', 'WITHSCORES',
  'LIMIT', 0, ARGV[2])
local rows = {}
for i = 1, #found, 2 do rows[#rows + 1] = row(found[i], found[i + 1], 3) end
local number = redis.call('GET', KEYS[4]) or '0'
if #rows == tonumber(ARGV[2]) then number = found[#found] end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
return {number, (redis.call('GET', KEYS[5]) or '0') .. ' ' .. run, rows}
"""
)

READ = (
    _ROW
    + """
-- ARGV: how many ids, the ids, then the spaces.
local rows = {}
for i = 2, 1 + ARGV[1] do
  local number = redis.call('ZSCORE', KEYS[3], ARGV[i])
  if number then rows[#rows + 1] = row(ARGV[i], number, 2 + ARGV[1]) end
end
return rows
"""
)

DROP = """
-- ARGV: how many spaces, the spaces, then (id, number of the newest change that is known). What is
-- dropped is no change that a follower could ask for: the generation tells him to read all anew.
local dropped, spaces = 0, tonumber(ARGV[1])
for i = 2 + spaces, #ARGV, 2 do
  local id = ARGV[i]
  local number = redis.call('ZSCORE', KEYS[3], id)
  if number and tonumber(number) == tonumber(ARGV[i + 1]) then
    redis.call('HDEL', KEYS[1], id)
    redis.call('SREM', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
    for s = 2, 1 + spaces do
      redis.call('HDEL', KEYS[1] .. ':states:' .. ARGV[s], id)
      redis.call('HDEL', KEYS[1] .. ':vectors:' .. ARGV[s], id)
    end
    dropped = dropped + 1
  end
end
if dropped > 0 then redis.call('INCR', KEYS[5]) end
return dropped
"""

RETRY = (
    _CHANGED
    + """
-- KEYS[6]: the stream. ARGV[1]: the most items in a message. Queues what was given up, which is
-- then as if it had just been put. Returns how many items.
local puts = {}
for _, space in ipairs(spaces) do
  local states = redis.call('HGETALL', KEYS[1] .. ':states:' .. space)
  for i = 1, #states, 2 do
    if string.sub(states[i + 1], 1, 7) == 'pending' then
      redis.call('HDEL', KEYS[1] .. ':states:' .. space, states[i])
      local record = redis.call('HGET', KEYS[1], states[i])
      puts[states[i]] = tonumber(string.match(record, '^%d+'))
    end
  end
end
local named, waiting, all = {}, 0, 0
local function queue()
  if waiting > 0 then
    redis.call('XADD', KEYS[6], '*', 'body', cjson.encode({items = named}))
  end
  named, waiting = {}, 0
end
for id, put in pairs(puts) do
  named[id] = put
  waiting, all = waiting + 1, all + 1
  if waiting == tonumber(ARGV[1]) then queue() end
end
queue()
return all
"""
)

KEEP = """
-- KEYS[1]: who keeps the live items. ARGV: who would, and for how many ms. Returns whether it does.
local keeper = redis.call('GET', KEYS[1])
if keeper and keeper ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
