-- Append one entry to the log of a running turn, if this writer is still the one that appended last, and announce it.
-- KEYS  1 events, 2 cancel
-- ARGV  1 live channel, 2 id of the entry this writer appended last, 3 id of this entry, 4 event, 5 frame,
--       6 '1' if a stop of the turn refuses this entry, 7 TTL in ms from now on, '' to leave it
-- Answers 'taken', 'already', 'superseded', 'lost' or 'cancelled'.
local function split(id)
  local attempt, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(attempt), tonumber(seq)
end

local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then
  return 'lost'
end
local last, event = newest[1], newest[2][2]
if last == ARGV[3] then
  return 'already'
end
if last ~= ARGV[2] then
  local last_attempt, last_seq = split(last)
  local attempt, seq = split(ARGV[2])
  if last_attempt > attempt or event == 'done' or event == 'error' then
    return 'superseded'
  end
  if last_attempt < attempt or last_seq < seq then
    return 'lost'
  end
  return 'superseded'
end
if ARGV[6] == '1' and redis.call('EXISTS', KEYS[2]) == 1 then
  return 'cancelled'
end
redis.call('XADD', KEYS[1], 'NOMKSTREAM', ARGV[3], 'e', ARGV[4], 'f', ARGV[5])
if ARGV[7] ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
end
redis.call('PUBLISH', ARGV[1], last .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. '\n' .. ARGV[5])
return 'taken'
