-- include types.lua
-- Gives a lease back.
--
-- KEYS    1 run   2 lease
-- ARGV    1 token
-- returns {'ok'}                          given back
--         {'lost'}                        the lease is not held under this token (or was given back already)
--         {'wrong', key, wanted, found}   a key is of another type
--
-- Invariant: a lease is removed by its holder only, together with the owner's name in the run.

local refusal = wrong_type(KEYS[1], 'hash') or wrong_type(KEYS[2], 'hash')
if refusal then
    return refusal
end
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then
    return {'lost'}
end

redis.call('HDEL', KEYS[1], 'owner')
redis.call('DEL', KEYS[2])
return {'ok'}
