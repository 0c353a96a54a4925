"""What happens to an embedding job in one step inside Redis: each script runs whole or not at all.

KEYS everywhere: the stream of the chunks, the job, its bitmap of the chunks that are done, its hash
of those that were missed (chunk → why). ARGV[1] is everywhere how many seconds these are kept from
now on.
"""

from __future__ import annotations

UNKNOWN = -1
"""What the scripts return of a job that Redis does not have."""

GO, CANCELLED, DONE_BEFORE = 1, 2, 3
"""What BEGIN returns otherwise."""

SEAL = "seal"
"""What stands for the number of a chunk where the sealing is meant."""

_JOB = """
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function number(field) return tonumber(redis.call('HGET', KEYS[2], field)) end
local function keep()
  for i = 2, 4 do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
end
-- Asks for the sealing, once, when every chunk is done.
local function seal(body)
  if number('done') == number('chunks') and redis.call('HEXISTS', KEYS[2], 'cancelled') == 0
      and redis.call('HSETNX', KEYS[2], 'sealing', 1) == 1 then
    redis.call('XADD', KEYS[1], '*', 'body', body)
  end
end
if redis.call('EXISTS', KEYS[2]) == 0 then return -1 end
"""

REGISTER = """
-- ARGV[2]: how many chunks the job has. Returns 1 unless it is registered already.
if redis.call('HSETNX', KEYS[2], 'chunks', ARGV[2]) == 0 then return 0 end
redis.call('HSET', KEYS[2], 'published', 0, 'done', 0, 'contents', 0, 'problems', 0)
redis.call('EXPIRE', KEYS[2], ARGV[1])
return 1
"""

PUBLISH = (
    _JOB
    + """
-- ARGV: ttl, the first chunk, how many may wait, the sealing's body, then the bodies of the chunks
-- from the first on. Publishes what there is room for, unless another has gone further meanwhile;
-- returns the next chunk to publish.
local published = number('published')
if published == tonumber(ARGV[2]) then
  local room = tonumber(ARGV[3]) - redis.call('XLEN', KEYS[1])
  for i = 5, math.min(#ARGV, 4 + room) do
    redis.call('XADD', KEYS[1], '*', 'body', ARGV[i])
    published = published + 1
  end
  redis.call('HSET', KEYS[2], 'published', published)
  keep()
  seal(ARGV[4])
end
return published
"""
)

BEGIN = (
    _JOB
    + """
-- ARGV: ttl, a chunk or 'seal'. Whether to do it; of a cancelled job, it is missed.
if ARGV[2] ~= 'seal' and redis.call('GETBIT', KEYS[3], ARGV[2]) == 1 then return 3 end
if redis.call('HEXISTS', KEYS[2], 'cancelled') == 1 then
  redis.call('HSET', KEYS[4], ARGV[2], 'cancelled')
  keep()
  return 2
end
redis.call('HSETNX', KEYS[2], 'began_ms', now_ms())
return 1
"""
)

DONE = (
    _JOB
    + """
-- ARGV: ttl, chunk, contents, problems, the sealing's body. Counts a chunk, however often it is
-- done.
if redis.call('SETBIT', KEYS[3], ARGV[2], 1) == 0 then
  redis.call('HINCRBY', KEYS[2], 'done', 1)
  redis.call('HINCRBY', KEYS[2], 'contents', ARGV[3])
  redis.call('HINCRBY', KEYS[2], 'problems', ARGV[4])
  redis.call('HSET', KEYS[2], 'updated_ms', now_ms())
end
redis.call('HDEL', KEYS[4], ARGV[2])
keep()
seal(ARGV[5])
return 1
"""
)

SEALED = (
    _JOB
    + """
redis.call('HSET', KEYS[2], 'sealed', 1)
redis.call('DEL', KEYS[4])
keep()
return 1
"""
)

MISSED = (
    _JOB
    + """
-- ARGV: ttl, a chunk or 'seal', why nobody tries it any more.
if ARGV[2] == 'seal' or redis.call('GETBIT', KEYS[3], ARGV[2]) == 0 then
  redis.call('HSET', KEYS[4], ARGV[2], ARGV[3])
  keep()
end
return 1
"""
)

CANCEL = (
    _JOB
    + """
-- What waits in the stream stays there, for workers to pass over: entries deleted before they are
-- read would leave the lag that Redis tells unknown. Returns 1 unless the job has ended.
if redis.call('HEXISTS', KEYS[2], 'sealed') == 1 then return 0 end
redis.call('HSET', KEYS[2], 'cancelled', 1)
keep()
return 1
"""
)

AGAIN = (
    _JOB
    + """
-- ARGV: ttl, the sealing's body, then (chunk or 'seal', body) of each. Puts back those that were
-- missed and are not waiting again already; the job is not cancelled any more. Returns how many.
redis.call('HDEL', KEYS[2], 'cancelled')
local again = 0
for i = 3, #ARGV, 2 do
  if redis.call('HDEL', KEYS[4], ARGV[i]) == 1 then
    redis.call('XADD', KEYS[1], '*', 'body', ARGV[i + 1])
    again = again + 1
  end
end
keep()
seal(ARGV[2])
return again
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
