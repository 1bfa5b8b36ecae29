-- include types.lua
-- Remembers what a step came to, unless it is remembered already.
--
-- KEYS    1 lease   2 steps
-- ARGV    1 token   2 field   3 text
-- returns {'ok', text}                    what is remembered: the first text that was stored under this field
--         {'lost', token}                 the lease is not held under this token but under that one ('' for none)
--         {'wrong', key, wanted, found}   a key is of another type
--
-- Invariant: only the holder of the lease remembers anything, and what is remembered never changes. The first write is
-- one that Redis allows when its memory is full: what was paid for is not lost then.

local refusal = wrong_type(KEYS[1], 'hash') or wrong_type(KEYS[2], 'hash')
if refusal then
    return refusal
end
local token = redis.call('HGET', KEYS[1], 'token')
if token ~= ARGV[1] then
    return {'lost', token or ''}
end

redis.call('HDEL', KEYS[2], '')
redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3])
return {'ok', redis.call('HGET', KEYS[2], ARGV[2])}
