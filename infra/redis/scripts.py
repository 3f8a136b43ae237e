"""The scripts that run inside Redis, each on the keys of one hash slot, so that Redis Cluster can run them."""

from typing import Final

# Write one bucket: fields and, last, its position. A Lua error does not roll back what the script already did: with
# the position last, a bucket that was cut short is still behind and is written again. Values are absolute.
#
# KEYS: the bucket, its list.  ARGV: position, 1 to write at the same position too (a replay), then per field its name,
# its value and its score in the list ("" when the model keeps no list).  Returns 1 when written, 0 when ignored.
WRITE_BUCKET: Final = """
local at = tonumber(redis.call('HGET', KEYS[1], '_pos') or '-1')
local position = tonumber(ARGV[1])
if at > position or (at == position and ARGV[2] == '0') then return 0 end
for i = 3, #ARGV, 3 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    if ARGV[i + 2] ~= '' then redis.call('ZADD', KEYS[2], ARGV[i + 2], ARGV[i]) end
end
redis.call('HSET', KEYS[1], '_pos', ARGV[1])
return 1
"""

# Compare and set: KEYS: the control hash.  ARGV: field, expected value ("" for absent), new value.
# Returns 1 when set.
COMPARE_AND_SET: Final = """
local now = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if now ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

# Make a version the one that readers use, if its checkpoint is still what the caller saw.
# KEYS: the control hash.  ARGV: version, the checkpoint seen, its offset.  Returns 1 when switched.
ACTIVATE: Final = """
if (redis.call('HGET', KEYS[1], 'v' .. ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'active', ARGV[1], 'ready_at', ARGV[3])
return 1
"""
