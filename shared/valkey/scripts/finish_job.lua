-- Forget a job that has ended.
-- KEYS  1 queue, 2 running, 3 job, 4 in-progress, 5 retry
-- ARGV  1 job id
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3], KEYS[4], KEYS[5])
return 1
