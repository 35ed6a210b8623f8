-- Forget a job that has ended, or put it back into the queue.
-- KEYS  1 queue, 2 running, 3 job, 4 in-progress, 5 retry
-- ARGV  1 job id, 2 score to wait until (ms) or '' if the job has ended
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[4])
if ARGV[2] == '' then
  redis.call('DEL', KEYS[3], KEYS[5])
  redis.call('ZREM', KEYS[1], ARGV[1])
elseif redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
end
return 1
