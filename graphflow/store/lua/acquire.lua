-- include types.lua
-- Takes the lease of a run that is not over.
--
-- KEYS    1 run   2 lease
-- ARGV    1 owner   2 length in ms   3 nonce of this call   4 token of a holder known to be dead, or ''
-- returns {'ok', token, op, revision}     taken, by this call or by an earlier one of the same nonce; `op` is that of the
--                                         run's last commit
--         {'held', owner, ms left, token}
--         {'over', status}                the run has ended; nothing has changed
--         {'gone'}                        there is no such run
--         {'wrong', key, wanted, found}   a key is of another type
--
-- Invariant: a token is never given out twice: it holds a number that the run counts up and the nonce, which tells two
-- holders apart even if the server lost the count. Nobody gets the lease of a run that is over: who ended it has given
-- its keys the time of their end, and this one would have none if its holder died.

local refusal = wrong_type(KEYS[1], 'hash') or wrong_type(KEYS[2], 'hash')
if refusal then
    return refusal
end
local run = redis.call('HMGET', KEYS[1], 'revision', 'op', 'leases', 'status')
if not run[1] then
    return {'gone'}
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local lease = redis.call('HMGET', KEYS[2], 'token', 'owner', 'deadline', 'length')
local token, deadline, length = lease[1], tonumber(lease[3] or 0), tonumber(lease[4] or 0)
if token and string.sub(token, -#ARGV[3]) == ARGV[3] then
    return {'ok', token, run[2], run[1]}
end
if FINAL[run[4]] then
    return {'over', run[4]}
end
-- A deadline more than two lengths away was set before the clock jumped back.
if token and token ~= ARGV[4] and now < deadline and deadline <= now + 2 * length then
    return {'held', lease[2] or '', deadline - now, token}
end

if token then
    -- Whoever held it did not give it back.
    redis.call('HINCRBY', KEYS[1], 'deaths', 1)
end
local count = string.format('%d', (run[3] or 0) + 1)
token = count .. '-' .. ARGV[3]
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'leases', count)
redis.call('HDEL', KEYS[1], 'quarantined')
redis.call('HSET', KEYS[2], 'token', token, 'owner', ARGV[1],
    'deadline', string.format('%d', now + ARGV[2]), 'length', ARGV[2])
return {'ok', token, run[2], run[1]}
