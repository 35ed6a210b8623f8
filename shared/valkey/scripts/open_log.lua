-- Create the event log of a new turn with its first entry, 0-1.
-- KEYS  1 events
-- ARGV  1 live channel, 2 frame of stream_started, 3 safety TTL in ms
-- Answers 'taken', or 'already' if there is a log.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 'already'
end
redis.call('XADD', KEYS[1], '0-1', 'e', 'stream_started', 'f', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[1], ' 0-1 stream_started\n' .. ARGV[2])
return 'taken'
