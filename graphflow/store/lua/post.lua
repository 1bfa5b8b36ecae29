-- include types.lua
-- Puts a request into a run's inbox.
--
-- KEYS    1 run   2 inbox
-- ARGV    1 operation id (without blanks)   2 request
-- returns {'ok'}                          posted, by this call or by an earlier one of the same operation id
--         {'over', status}                the run has ended
--         {'gone'}                        there is no such run
--         {'wrong', key, wanted, found}   a key is of another type
--
-- Invariant: a request is posted once, as long as fewer than 16 others were posted between a call and its repetition;
-- nothing is posted to a run that is over.

local KEPT = 16
local refusal = wrong_type(KEYS[1], 'hash') or wrong_type(KEYS[2], 'list')
if refusal then
    return refusal
end
local run = redis.call('HMGET', KEYS[1], 'status', 'posted')
if not run[1] then
    return {'gone'}
end
local posted, kept = {ARGV[1]}, run[2] or ''
for operation in string.gmatch(kept, '%S+') do
    if operation == ARGV[1] then
        return {'ok'}
    end
    if #posted < KEPT then
        posted[#posted + 1] = operation
    end
end
if FINAL[run[1]] then
    return {'over', run[1]}
end

redis.call('HSET', KEYS[1], 'posted', table.concat(posted, ' '))
redis.call('RPUSH', KEYS[2], ARGV[2])
return {'ok'}
