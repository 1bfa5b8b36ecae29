-- include types.lua
-- Put in front of `create` and `commit`: a list of writes in ARGV, looked over as a whole before any is made.
--
-- Each write is: command, number of the key in KEYS, number of arguments, arguments.
--     HSET    field value ...    a hash; up to 1,000 arguments
--     HDEL    field ...          a hash; up to 1,000 arguments
--     UNLINK                     any type
--     XADD    field value ...    a stream; a new entry, and the stream cut to about `stream_length` entries
--     LTRIM   count              a list; its first `count` elements go
--     RPUSH   value ...          a list; up to 1,000 arguments
--     LREM    value              a list; the first element that is equal goes
--     SET     value              text
--     COPY    number             any type; to the key of that number, in the place of what is there
--     RENAME  number             the same, but the key goes; no key, no change

local MAX_ARGUMENTS = 1000
local TYPES = {HSET = 'hash', HDEL = 'hash', UNLINK = 'any', XADD = 'stream', LTRIM = 'list', RPUSH = 'list', LREM = 'list',
    SET = 'string', COPY = 'any', RENAME = 'any'}

local function counts_fit(command, count)
    if command == 'HSET' or command == 'XADD' then
        return count >= 2 and count % 2 == 0 and count <= MAX_ARGUMENTS
    elseif command == 'HDEL' or command == 'RPUSH' then
        return count >= 1 and count <= MAX_ARGUMENTS
    elseif command == 'UNLINK' then
        return count == 0
    end
    return count == 1
end

-- A refusal if any write of the list from ARGV[first] on cannot be made, else nil. Writes nothing. `types` holds, by the
-- number of the key, those that are known to be right.
local function refuse_writes(first, types)
    local at, last = first, #ARGV
    while at <= last do
        local command, number, count = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
        local wanted = TYPES[command]
        if not wanted or not number or not KEYS[number] or not count or not counts_fit(command, count)
                or at + 2 + count > last then
            return {'malformed', at}
        end
        if command == 'LTRIM' and not tonumber(ARGV[at + 3]) then
            return {'malformed', at}
        end
        if (command == 'COPY' or command == 'RENAME') and not KEYS[tonumber(ARGV[at + 3])] then
            return {'malformed', at}
        end
        if wanted ~= 'any' then
            local found = types[number] or type_of(KEYS[number])
            if found == 'none' then
                types[number] = wanted
            elseif found ~= wanted then
                return {'wrong', KEYS[number], wanted, found}
            else
                types[number] = found
            end
        end
        at = at + 3 + count
    end
end

local function make_writes(first, stream_length)
    local at, last = first, #ARGV
    while at <= last do
        local command, key, count = ARGV[at], KEYS[tonumber(ARGV[at + 1])], tonumber(ARGV[at + 2])
        if command == 'XADD' then
            redis.call('XADD', key, 'MAXLEN', '~', stream_length, '*', unpack(ARGV, at + 3, at + 2 + count))
        elseif command == 'LTRIM' then
            redis.call('LTRIM', key, ARGV[at + 3], -1)
        elseif command == 'LREM' then
            redis.call('LREM', key, 1, ARGV[at + 3])
        elseif command == 'COPY' then
            redis.call('COPY', key, KEYS[tonumber(ARGV[at + 3])], 'REPLACE')
        elseif command == 'RENAME' then
            if redis.call('EXISTS', key) == 1 then
                redis.call('RENAME', key, KEYS[tonumber(ARGV[at + 3])])
            end
        elseif count == 0 then
            redis.call(command, key)
        else
            redis.call(command, key, unpack(ARGV, at + 3, at + 2 + count))
        end
        at = at + 3 + count
    end
end
