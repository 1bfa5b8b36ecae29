-- include writes.lua
-- Stores a new run.
--
-- KEYS    1 run   2.. others of the run
-- ARGV    1 operation id   2 length of the event stream   3.. writes (see writes.lua); the first is an HSET of the run
-- returns {'ok'}                          stored, by this call or by an earlier one of the same operation id
--         {'exists'}                      there is a run of this id
--         {'wrong', key, wanted, found}   a key is of another type
--         {'malformed', position}         the list of writes is not one
--
-- Invariant: a run's hash is there only with everything that it began with. Nothing is left of what other keys of its
-- id held before. The first write is one that Redis refuses when its memory is full.

local refusal = wrong_type(KEYS[1], 'hash')
if refusal then
    return refusal
end
if redis.call('EXISTS', KEYS[1]) == 1 then
    if redis.call('HGET', KEYS[1], 'op') == ARGV[1] then
        return {'ok'}
    end
    return {'exists'}
end
refusal = refuse_writes(3, {'hash'})
if refusal then
    return refusal
end

redis.call('HSET', KEYS[1], 'op', ARGV[1])
make_writes(3, ARGV[2])
return {'ok'}
