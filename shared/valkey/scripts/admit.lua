-- Let a request of a user in if rate, running turns, open streams and queue allow it. What it needs is taken at once or,
-- but for its count, not at all. The time is the server's: all processes agree on it.
-- KEYS  1 rate, 2 turns, 3 streams, 4 queue, 5 admitted
-- ARGV  1 µs between two requests at the highest rate, 0: do not count, 2 requests at once,
--       3 chat, 4 request id of the turn to begin, '' for none, 5 most turns, 0: any number, 6 name of an events key,
--       with two %s, 7 how long a turn may take to get a log and a job in ms, 8 life of the set of turns in ms,
--       9 most streams, 0: any number, 10 life of a stream's place in ms, 0: open none,
--       11 most waiting jobs, 0: any number, 12 name of the place that is taken
-- Answers {'in'}, {'requests', µs to wait}, {'turns', member of each that has a log}, {'streams'} or {'queue'}.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = math.floor(now / 1000)

local function text(number)
  return string.format('%.0f', number)
end

-- The generic cell rate algorithm: the key holds when the bucket will be full again.
local interval = tonumber(ARGV[1])
if interval > 0 then
  local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
  local wait = full_at - (tonumber(ARGV[2]) - 1) * interval - now
  if wait > 0 then
    return {'requests', text(wait)}
  end
  full_at = full_at + interval
  redis.call('SET', KEYS[1], text(full_at), 'PX', text(math.ceil((full_at - now) / 1000)))
end

-- Nobody takes an ended turn out of the set: its log says that it has ended. The answer of one who has too many.
local function list_running()
  local running = {'turns'}
  local members = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
  for index = 1, #members, 2 do
    local chat, request = string.match(members[index], '^(%S+) (%S+)')
    local newest = redis.call('XREVRANGE', string.format(ARGV[6], chat, request), '+', '-', 'COUNT', 1)[1]
    local has_ended
    if newest then
      has_ended = newest[2][2] == 'done' or newest[2][2] == 'error'
    else
      has_ended = now_ms - tonumber(members[index + 1]) > tonumber(ARGV[7])
    end
    if has_ended then
      redis.call('ZREM', KEYS[2], members[index])
    elseif newest then
      running[#running + 1] = members[index]
    end
  end
  return running
end

local most_turns = ARGV[3] ~= '' and tonumber(ARGV[5]) or 0
if most_turns > 0 and redis.call('ZCARD', KEYS[2]) >= most_turns then
  local running = list_running()
  if redis.call('ZCARD', KEYS[2]) >= most_turns then
    return running
  end
end

local most_streams, stream_life = tonumber(ARGV[9]), tonumber(ARGV[10])
if stream_life > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', text(now_ms))
  if most_streams > 0 and redis.call('ZCARD', KEYS[3]) >= most_streams then
    return {'streams'}
  end
end

local most_waiting = tonumber(ARGV[11])
if most_waiting > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', text(now_ms))
  if redis.call('ZCARD', KEYS[4]) + redis.call('ZCARD', KEYS[5]) >= most_waiting then
    return {'queue'}
  end
  redis.call('ZADD', KEYS[5], text(now_ms + tonumber(ARGV[7])), ARGV[12])
  redis.call('PEXPIRE', KEYS[5], 2 * tonumber(ARGV[7]))
end

if most_turns > 0 then
  redis.call('ZADD', KEYS[2], text(now_ms), ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[12])
  redis.call('PEXPIRE', KEYS[2], ARGV[8])
end
if stream_life > 0 then
  redis.call('ZADD', KEYS[3], text(now_ms + stream_life), ARGV[12])
  redis.call('PEXPIRE', KEYS[3], text(2 * stream_life))
end
return {'in'}
