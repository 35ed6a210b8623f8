-- Write again, under a new attempt n, what a log that was lost (wholly or its tail) held: the restart and the events so far.
-- KEYS  1 events
-- ARGV  1 live channel, 2 n, 3 frame of stream_started, 4 frame of restart, 5 safety TTL in ms, then pairs of event, frame
-- Answers 'taken', 'already' or 'superseded'.
local function announce(previous, id, event, frame)
  redis.call('PUBLISH', ARGV[1], previous .. ' ' .. id .. ' ' .. event .. '\n' .. frame)
end

local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local previous
if newest then
  local attempt = tonumber(string.match(newest[1], '^(%d+)-'))
  local event = newest[2][2]
  if attempt > tonumber(ARGV[2]) or event == 'done' or event == 'error' then
    return 'superseded'
  end
  if attempt == tonumber(ARGV[2]) then
    return 'already'
  end
  previous = newest[1]
else
  redis.call('XADD', KEYS[1], '0-1', 'e', 'stream_started', 'f', ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  announce('', '0-1', 'stream_started', ARGV[3])
  previous = '0-1'
end
local function add(seq, event, frame)
  local id = ARGV[2] .. '-' .. seq
  redis.call('XADD', KEYS[1], 'NOMKSTREAM', id, 'e', event, 'f', frame)
  announce(previous, id, event, frame)
  previous = id
end
add(0, 'restart', ARGV[4])
for index = 6, #ARGV, 2 do
  add((index - 4) / 2, ARGV[index], ARGV[index + 1])
end
return 'taken'
