-- include types.lua
-- Notes that what is stored of a run cannot be read.
--
-- KEYS    1 run
-- ARGV    1 what is wrong
-- returns {'ok'}
--         {'gone'}                        there is no such run
--         {'wrong', key, wanted, found}   a key is of another type
--
-- Invariant: a note never makes a run. `acquire` takes it away: whoever drives the run again has looked at it.

local refusal = wrong_type(KEYS[1], 'hash')
if refusal then
    return refusal
end
if redis.call('EXISTS', KEYS[1]) == 0 then
    return {'gone'}
end

redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], 'quarantined', ARGV[1])
return {'ok'}
