-- include types.lua
-- Moves the deadline of a lease.
--
-- KEYS    1 lease   2 inbox
-- ARGV    1 token   2 length in ms
-- returns {'ok', inbox length}
--         {'lost'}                        the lease is not held under this token
--         {'wrong', key, wanted, found}   a key is of another type
--
-- Invariant: only who holds a lease prolongs it. The first write is one that Redis allows when its memory is full, so
-- that a run waiting for memory is not lost.

local refusal = wrong_type(KEYS[1], 'hash') or wrong_type(KEYS[2], 'list')
if refusal then
    return refusal
end
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return {'lost'}
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], 'deadline', string.format('%d', now + ARGV[2]), 'length', ARGV[2])
return {'ok', redis.call('LLEN', KEYS[2])}
