-- include writes.lua
-- Stores what one turn of the scheduler came to.
--
-- KEYS    1 run   2 lease   3 inbox   4.. others of the run
-- ARGV    1 token   2 expected revision   3 new revision   4 operation id of the commit before   5 operation id
--         6 '1' if it brings much that is new, as the items of a map, and is to be refused when memory is full
--         7 length of the event stream   8.. writes (see writes.lua)
-- returns {'ok', inbox length, full}      stored, by this call or by an earlier one of the same operation id; `full` is 1
--                                         if Redis' memory is full, else 0
--         {'gone'}                        there is no such run
--         {'lost', token}                 the lease is not held under this token but under that one ('' for none)
--         {'other', revision}             the run is not where the caller believes it to be
--         {'wrong', key, wanted, found}   a key is of another type
--         {'malformed', position}         the list of writes is not one
--
-- Invariant: the writes of a commit are made all or none, once, by the holder of the lease, upon the run as it was after
-- the commit before. The revision alone does not tell that: starts of attempts do not raise it, and a copy of an older
-- commit may arrive late. Hence each commit also names the one before it.

-- What is read anyway says whether a key is of its type: TYPE would be three calls more in the shortest commit. Any other
-- error of a read, such as that the user lacks the right, is passed on.
local run = redis.pcall('HMGET', KEYS[1], 'revision', 'op')
if not run[1] then
    return wrong_type(KEYS[1], 'hash') or run.err and run or {'gone'}
end
local waiting = redis.pcall('LLEN', KEYS[3])
if type(waiting) ~= 'number' then
    return wrong_type(KEYS[3], 'list') or waiting
end
if run[2] == ARGV[5] then
    return {'ok', waiting, 0}
end
local token = redis.pcall('HGET', KEYS[2], 'token')
if token ~= ARGV[1] then
    return wrong_type(KEYS[2], 'hash') or type(token) == 'table' and token or {'lost', token or ''}
end
if run[1] ~= ARGV[2] or run[2] ~= ARGV[4] then
    return {'other', run[1]}
end
local refusal = refuse_writes(8, {'hash', 'hash', 'list'})
if refusal then
    return refusal
end

local try = ARGV[6] == '1' and redis.call or redis.pcall
local first = try('HSET', KEYS[1], 'revision', ARGV[3], 'op', ARGV[5])
local full = 0
if type(first) == 'table' and first.err then
    -- The keys are of the right types: what is refused is only more memory. Redis lets a script that began with a write
    -- it always allows write on; nothing but the start of something large should wait.
    full = 1
    redis.call('HDEL', KEYS[1], '')
    redis.call('HSET', KEYS[1], 'revision', ARGV[3], 'op', ARGV[5])
end
make_writes(8, ARGV[7])
return {'ok', waiting > 0 and redis.call('LLEN', KEYS[3]) or 0, full}
