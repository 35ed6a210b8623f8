-- Put a job into arq's queue, unless it waits there already. Whatever a dead worker left under its id is replaced.
-- KEYS  1 queue, 2 job, 3 in-progress, 4 retry, 5 running, 6 wake, 7 admitted
-- ARGV  1 job id, 2 serialized job, 3 score (ms since the epoch), 4 life of the job in ms, 5 cap of the wake list,
--       6 the place that was kept for the job, '' for none
-- Answers 1 if the job was added, 0 if it waited already.
if ARGV[6] ~= '' then
  redis.call('ZREM', KEYS[7], ARGV[6])
end
if redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
redis.call('DEL', KEYS[3], KEYS[4])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[4])
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
if redis.call('LLEN', KEYS[6]) < tonumber(ARGV[5]) then
  redis.call('LPUSH', KEYS[6], '1')
end
return 1
