-- A process has no client of the turn left: remove it, and count the processes that have one.
-- KEYS  1 clients
-- ARGV  1 process, 2 now (ms)
-- Answers how many processes are left whose heartbeat has not run out.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
return redis.call('ZCARD', KEYS[1])
