-- Open attempt n in the log: from here on no older attempt can write. The entry n-0 is a restart if clients have, or
-- may have, seen something of an older attempt, else a mark that is not sent to clients.
-- KEYS  1 events
-- ARGV  1 live channel, 2 n, 3 frame of stream_started, 4 frame of restart, 5 safety TTL in ms,
--       6 '1' to write nothing where a restart would be written
-- Answers {'taken' or 'already', event of n-0}, {'superseded'} or {'refused'}.
local function announce(previous, id, event, frame)
  redis.call('PUBLISH', ARGV[1], previous .. ' ' .. id .. ' ' .. event .. '\n' .. frame)
end

-- Whether the log holds a delta or a tool event after its last stream_started or restart.
local function has_shown()
  local upper = '+'
  while true do
    local page = redis.call('XREVRANGE', KEYS[1], upper, '-', 'COUNT', 16)
    for _, entry in ipairs(page) do
      local event = entry[2][2]
      if event == 'delta' or event == 'tool' then
        return true
      end
      if event == 'stream_started' or event == 'restart' then
        return false
      end
      upper = '(' .. entry[1]
    end
    if #page == 0 then
      return false
    end
  end
end

local attempt = tonumber(ARGV[2])
local opening = ARGV[2] .. '-0'
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local shown
if newest then
  local event = newest[2][2]
  if newest[1] == opening then
    return {'already', event}
  end
  if tonumber(string.match(newest[1], '^(%d+)-')) >= attempt or event == 'done' or event == 'error' then
    return {'superseded'}
  end
  shown = has_shown()
else
  shown = attempt >= 2
end
if shown and ARGV[6] == '1' then
  return {'refused'}
end
local previous = newest and newest[1]
if not newest then
  redis.call('XADD', KEYS[1], '0-1', 'e', 'stream_started', 'f', ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  announce('', '0-1', 'stream_started', ARGV[3])
  previous = '0-1'
end
local event = shown and 'restart' or 'mark'
local frame = shown and ARGV[4] or ''
redis.call('XADD', KEYS[1], 'NOMKSTREAM', opening, 'e', event, 'f', frame)
announce(previous, opening, event, frame)
return {'taken', event}
