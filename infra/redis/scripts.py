"""The scripts that run inside Redis, each on the keys of one hash slot, so that Redis Cluster can run them."""

from typing import Final

# Write one bucket, if it is still as the writer saw it: its fields and, last, its stamp (`offset.revision`: the highest
# offset that it was written for, and how often it was written). A Lua error does not roll back what the script already
# did: with the stamp last, whoever writes a bucket that was cut short has seen the stamp before it, looks again, and
# finds by its documents' own versions what is missing. Values are absolute.
#
# KEYS: the bucket, its list.  ARGV: the stamp as seen ("" for none; "*" for a bucket that nobody looked at: then none
# of the fields may exist), the offset, then per field its name, its value and its score in the list ("" when the model
# keeps no list).  Returns 1 when written, 0 when somebody else wrote first.
WRITE_BUCKET: Final = """
local stamp = redis.call('HGET', KEYS[1], '_pos') or ''
if ARGV[1] == '*' then
    for i = 3, #ARGV, 3 do
        if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then return 0 end
    end
elseif stamp ~= ARGV[1] then
    return 0
end
for i = 3, #ARGV, 3 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    if ARGV[i + 2] ~= '' then redis.call('ZADD', KEYS[2], ARGV[i + 2], ARGV[i]) end
end
local at, revision = ARGV[2], 0
if stamp ~= '' then
    local before, count = string.match(stamp, '^(%d+)%.?(%d*)$')
    if before and tonumber(before) > tonumber(at) then at = before end
    revision = tonumber(count) or 0
end
redis.call('HSET', KEYS[1], '_pos', at .. '.' .. revision + 1)
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
