-- include types.lua
-- Ends a run for good, so that `expire` removes its keys.
--
-- KEYS    1 run   2 lease
-- ARGV    1 token of a holder known to be dead, or ''   2 what a run that was not over is said to have failed of
-- returns {'ok'}                          it is over and its time has come, by this call or by an earlier one
--         {'held', owner, ms left, token}
--         {'gone'}                        there is no such run
--
-- Invariant: only a run that nobody drives is ended. Keys of another type do not keep it. If whoever deletes it dies on
-- the way, there is a run that is over, with a time of its end that has passed: to be gone on with by anybody.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if type_of(KEYS[2]) == 'hash' then
    local lease = redis.call('HMGET', KEYS[2], 'token', 'owner', 'deadline', 'length')
    local token, deadline, length = lease[1], tonumber(lease[3] or 0), tonumber(lease[4] or 0)
    -- A deadline more than two lengths away was set before the clock jumped back.
    if token and token ~= ARGV[1] and now < deadline and deadline <= now + 2 * length then
        return {'held', lease[2] or '', deadline - now, token}
    end
end
local kind = type_of(KEYS[1])
if kind == 'none' then
    return {'gone'}
end

redis.call('UNLINK', KEYS[2])
if kind ~= 'hash' then
    redis.call('UNLINK', KEYS[1])
    return {'ok'}
end
redis.call('HDEL', KEYS[1], 'owner')
if not FINAL[redis.call('HGET', KEYS[1], 'status')] then
    redis.call('HSET', KEYS[1], 'status', 'cancelled', 'error', ARGV[2])
end
redis.call('HSET', KEYS[1], 'expires', string.format('%d', now))
return {'ok'}
