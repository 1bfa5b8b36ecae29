-- include types.lua
-- Gives keys of a run that is over the time of their end, or removes them if that time has come.
--
-- KEYS    1 run   2.. others of the run, in any number of calls
-- ARGV    1 '1' with the last of them: the run's hash goes with these
--         2 seconds that complete runs are kept unless the run says otherwise   3 the same for other runs
-- returns {'ok', expires}                 in ms since 1970, the server's clock
--         {'kept'}                        the run is kept for ever; nothing has changed
--         {'open', status}                the run is not over; nothing has changed
--         {'gone'}                        there is no such run; the other keys, left behind by it, are removed
--         {'wrong', key, wanted, found}   a key is of another type
--
-- Invariant: no key of a run that is not over is given an end. The keys of a run end at the same millisecond, which the
-- first call fixes in the run; its hash is the last to get one, so that a run whose hash has none is not done with.

local refusal = wrong_type(KEYS[1], 'hash')
if refusal then
    return refusal
end
local run = redis.call('HMGET', KEYS[1], 'status', 'expires', 'keep_complete', 'keep_other')
if not run[1] then
    for number = 2, #KEYS do
        redis.call('UNLINK', KEYS[number])
    end
    return {'gone'}
end
if not FINAL[run[1]] then
    return {'open', run[1]}
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local expires = tonumber(run[2])
if not expires then
    local keep
    if run[1] == 'complete' then
        keep = tonumber(run[3] or ARGV[2])
    else
        keep = tonumber(run[4] or ARGV[3])
    end
    if keep == 0 then
        return {'kept'}
    end
    expires = now + math.ceil(keep * 1000)
end
local text = string.format('%d', expires)

-- Redis lets a script that began with a write it always allows write on when memory is full.
redis.call('HDEL', KEYS[1], '')
if not run[2] then
    redis.call('HSET', KEYS[1], 'expires', text)
end
for number = 2, #KEYS + 1 do
    local key = KEYS[number]
    if number > #KEYS then
        key = ARGV[1] == '1' and KEYS[1]
    end
    if key and expires <= now then
        redis.call('UNLINK', key)
    elseif key then
        redis.call('PEXPIREAT', key, text)
    end
end
return {'ok', expires}
