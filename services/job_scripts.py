"""What happens to an embedding job in one step inside Redis: each script runs whole or not at all.

KEYS everywhere: the stream of the chunks, the job, its bitmap of the chunks that are done, its hash
of those that were missed (chunk → why). ARGV everywhere: how many seconds these are kept from now
on, the job's id, and how many of its chunks may be with the workers or missed.

Whatever counts a chunk also gives out the next, in the same step. So a job always has as many
chunks with the workers as it may have, whoever dies, and ends without anybody watching it.
"""

from __future__ import annotations

UNKNOWN = -1
"""What the scripts return of a job that Redis does not have."""

GO, CANCELLED, DONE_BEFORE = 1, 2, 3
"""What BEGIN returns otherwise."""

SEAL = "seal"
"""What stands for the number of a chunk where the sealing is meant."""

_STEPS = """
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function number(field) return tonumber(redis.call('HGET', KEYS[2], field)) end
local function keep()
  for i = 2, 4 do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
end
local function register(chunks)
  if redis.call('HSETNX', KEYS[2], 'chunks', chunks) == 1 then
    redis.call('DEL', KEYS[3], KEYS[4])  -- where the hash alone was lost, they count nothing
    redis.call('HSET', KEYS[2], 'published', 0, 'done', 0, 'contents', 0, 'problems', 0)
  end
end
local function give(chunk)
  local body = cjson.encode({job = ARGV[2], chunk = chunk})
  redis.call('XADD', KEYS[1], '*', 'body', body)
end
-- Gives out the chunks that there is room for and, once, the sealing after the last.
local function go_on()
  if redis.call('HEXISTS', KEYS[2], 'cancelled') == 1 then return end
  local chunks, published, done = number('chunks'), number('published'), number('done')
  local last = math.min(chunks, done + ARGV[3])
  for chunk = published, last - 1 do give(string.format('%d', chunk)) end
  if last > published then redis.call('HSET', KEYS[2], 'published', last) end
  if done == chunks and redis.call('HSETNX', KEYS[2], 'sealing', 1) == 1 then give('seal') end
end
"""

_KNOWN = (
    _STEPS
    + """
if redis.call('EXISTS', KEYS[2]) == 0 then return -1 end
"""
)

RESUME = (
    _STEPS
    + """
-- ARGV[4]: how many chunks the job has. Begins it, or goes on with it: puts back what was missed,
-- and measures its rate anew.
register(ARGV[4])
redis.call('HDEL', KEYS[2], 'cancelled', 'began_ms', 'updated_ms', 'fresh')
for _, chunk in ipairs(redis.call('HKEYS', KEYS[4])) do give(chunk) end
redis.call('DEL', KEYS[4])
go_on()
keep()
return 1
"""
)

BEGIN = (
    _KNOWN
    + """
-- ARGV[4]: a chunk or 'seal'. Whether to do it; of a cancelled job, it is missed.
if ARGV[4] ~= 'seal' and redis.call('GETBIT', KEYS[3], ARGV[4]) == 1 then return 3 end
if redis.call('HEXISTS', KEYS[2], 'cancelled') == 1 then
  redis.call('HSET', KEYS[4], ARGV[4], 'cancelled')
  keep()
  return 2
end
redis.call('HDEL', KEYS[4], ARGV[4])
redis.call('HSETNX', KEYS[2], 'began_ms', now_ms())
return 1
"""
)

DONE = (
    _KNOWN
    + """
-- ARGV[4] on: chunk, its contents, how many of them have no vector, how many were embedded just
-- now. Counts a chunk, however often it is done.
if redis.call('SETBIT', KEYS[3], ARGV[4], 1) == 0 then
  redis.call('HINCRBY', KEYS[2], 'done', 1)
  redis.call('HINCRBY', KEYS[2], 'contents', ARGV[5])
  redis.call('HINCRBY', KEYS[2], 'problems', ARGV[6])
  if redis.call('HEXISTS', KEYS[2], 'began_ms') == 1 then
    redis.call('HINCRBY', KEYS[2], 'fresh', ARGV[7])
    redis.call('HSET', KEYS[2], 'updated_ms', now_ms())
  end
end
redis.call('HDEL', KEYS[4], ARGV[4])
go_on()
keep()
return 1
"""
)

SEALED = (
    _KNOWN
    + """
redis.call('HSET', KEYS[2], 'sealed', 1)
redis.call('DEL', KEYS[4])
keep()
return 1
"""
)

MISSED = (
    _KNOWN
    + """
-- ARGV[4] on: a chunk or 'seal', why nobody tries it any more. It keeps its room: of a job whose
-- chunks fail, no more are given out than there is room for.
if ARGV[4] == 'seal' or redis.call('GETBIT', KEYS[3], ARGV[4]) == 0 then
  redis.call('HSET', KEYS[4], ARGV[4], ARGV[5])
  keep()
end
return 1
"""
)

CANCEL = (
    _STEPS
    + """
-- ARGV[4]: how many chunks the job has. What waits in the stream stays there, for workers to pass
-- over: entries deleted before they are read would leave the lag that Redis tells unknown. Returns
-- 1 unless the job has ended.
if redis.call('HEXISTS', KEYS[2], 'sealed') == 1 then return 0 end
register(ARGV[4])
redis.call('HSET', KEYS[2], 'cancelled', 1)
keep()
return 1
"""
)

ATTEND = """
-- KEYS[1]: a sorted set of workers by when they were heard of. ARGV: a worker, '' to look only, and
-- how many ms until it is forgotten. Returns how many there are.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] ~= '' then redis.call('ZADD', KEYS[1], now, ARGV[1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""
