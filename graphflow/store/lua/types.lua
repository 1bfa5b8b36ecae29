-- Put in front of every script: asks for the type of a key before anything is written, for Redis does not roll back; and
-- knows the statuses that never change again.

local FINAL = {complete = true, partial = true, failed = true, cancelled = true}

local function type_of(key)
    local answer = redis.call('TYPE', key)
    return type(answer) == 'table' and answer.ok or answer
end

-- A refusal if the key is there and of another type, else nil.
local function wrong_type(key, wanted)
    local found = type_of(key)
    if found ~= 'none' and found ~= wanted then
        return {'wrong', key, wanted, found}
    end
end
