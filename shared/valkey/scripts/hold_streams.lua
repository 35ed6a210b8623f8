-- Keep places of a user's streams, also those that the server has lost.
-- KEYS  1 streams
-- ARGV  1 life of a place in ms, then the places
local time = redis.call('TIME')
local expires = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
for index = 2, #ARGV do
  redis.call('ZADD', KEYS[1], string.format('%.0f', expires), ARGV[index])
end
redis.call('PEXPIRE', KEYS[1], 2 * tonumber(ARGV[1]))
return 1
