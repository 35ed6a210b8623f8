-- Append the terminal event from outside the worker, as (n+1)-1, so that a late worker of attempt n cannot write after it.
-- KEYS  1 events
-- ARGV  1 live channel, 2 n, 3 event, 4 frame, 5 TTL in ms
-- Answers 'taken', 'superseded' if the log has ended, or 'lost' if there is none.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then
  return 'lost'
end
local event = newest[2][2]
if event == 'done' or event == 'error' then
  return 'superseded'
end
local attempt = math.max(tonumber(ARGV[2]), tonumber(string.match(newest[1], '^(%d+)-')))
local id = string.format('%d-1', attempt + 1)
redis.call('XADD', KEYS[1], 'NOMKSTREAM', id, 'e', ARGV[3], 'f', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', ARGV[1], newest[1] .. ' ' .. id .. ' ' .. ARGV[3] .. '\n' .. ARGV[4])
return 'taken'
