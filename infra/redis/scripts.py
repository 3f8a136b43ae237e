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

# Move a version's checkpoint. KEYS: the control hash.  ARGV: its field, expected value ("" for absent), new value, then
# fields to forget with it: lanes, which a checkpoint that moves without them leaves behind.  Returns 1 when moved.
COMPARE_AND_SET: Final = """
local now = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if now ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
for i = 4, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
return 1
"""

# Begin lanes at a version's checkpoint: those that have no field of their own yet.
# KEYS: the control hash.  ARGV: the checkpoint's field, the checkpoint seen, the value of a lane that begins there,
# then the lanes' fields.  Returns 1 unless the checkpoint is another one.
BEGIN_LANES: Final = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
for i = 4, #ARGV do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[3]) end
return 1
"""

# Move some lanes of a version, all or none, and with them its checkpoint: where the last of all its lanes is.
# A lane's value is its offset, a space, and the position's token.
# KEYS: the control hash.  ARGV: the checkpoint's field, how many lanes move, per lane its field, the value seen and
# the new value; then the fields of all lanes.  Returns the checkpoint's value, nothing when a lane is not as seen.
MOVE_LANES: Final = """
local moves = 2 + 3 * tonumber(ARGV[2])
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return false end
for i = 3, moves, 3 do
    if redis.call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then return false end
end
for i = 3, moves, 3 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2]) end
local last, token
for i = moves + 1, #ARGV do
    local lane = redis.call('HGET', KEYS[1], ARGV[i])
    if not lane then return false end
    local offset, at = string.match(lane, '^(%d+) (.+)$')
    if not last or tonumber(offset) < last then last, token = tonumber(offset), at end
end
redis.call('HSET', KEYS[1], ARGV[1], token)
return token
"""

# Make a version the one that readers use, if its checkpoint is still what the caller saw.
# KEYS: the control hash.  ARGV: version, the checkpoint seen, its offset.  Returns 1 when switched.
ACTIVATE: Final = """
if (redis.call('HGET', KEYS[1], 'v' .. ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'active', ARGV[1], 'ready_at', ARGV[3])
return 1
"""
