-- Take jobs that are due out of arq's queue, so that running jobs never hide waiting ones from any worker's view.
-- KEYS  1 queue, 2 running
-- ARGV  1 now (ms), 2 how many, 3 life of the in-progress key (ms), 4 in-progress prefix, 5 job prefix
-- Answers {id, serialized job or nil} of each, oldest first.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[1])
local jobs = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])
local picked = {}
for index = 1, #jobs do
  redis.call('ZREM', KEYS[1], jobs[index])
  redis.call('ZADD', KEYS[2], tonumber(ARGV[1]) + tonumber(ARGV[3]), jobs[index])
  redis.call('SET', ARGV[4] .. jobs[index], '1', 'PX', ARGV[3])
  picked[index] = {jobs[index], redis.call('GET', ARGV[5] .. jobs[index])}
end
return picked
