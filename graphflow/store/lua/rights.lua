-- Asks whether the user may call what the scripts call, each command in a form that leaves nothing behind.
--
-- KEYS    1 a key that is not there
-- returns {'ok', command, error, ...}     the commands that were refused, whatever for, each with the server's words
--
-- Invariant: the key is not there afterwards.

local none = KEYS[1]
local refused = {'ok'}

local function ask(command, ...)
    local reply = redis.pcall(command, ...)
    if type(reply) == 'table' and reply.err then
        table.insert(refused, command)
        table.insert(refused, reply.err)
        return false
    end
    return true
end

ask('TIME')
ask('EXISTS', none)
ask('TYPE', none)
ask('HGET', none, '')
ask('HMGET', none, '')
ask('HDEL', none, '')
ask('LLEN', none)
ask('LTRIM', none, 0, -1)
ask('LREM', none, 1, '')
ask('DEL', none)
ask('PEXPIREAT', none, 1)
ask('XADD', none, 'NOMKSTREAM', '*', '', '')
ask('SET', none, '', 'XX')
-- These complain of their arguments, after the right was looked at.
ask('COPY', none, none)
ask('RENAME', none, none)
ask('HSET', none, '', '', '')
ask('HINCRBY', none, '', '')
-- These leave the key, which then goes.
if ask('UNLINK', none) then
    ask('HSETNX', none, '', '')
    redis.call('UNLINK', none)
    ask('RPUSH', none, '')
    redis.call('UNLINK', none)
end
return refused
