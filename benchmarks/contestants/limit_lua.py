"""The limit for a chain in Lua: one call for each step, which checks the number of the step before and adds an event."""

from __future__ import annotations

from typing import Any

from benchmarks.client import open_client
from benchmarks.occasion import Occasion

STORE = """
if redis.call('HGET', KEYS[1], 'steps') ~= ARGV[1] then return redis.error_reply('FENCED') end
redis.call('HSET', KEYS[1], 'steps', ARGV[2])
redis.call('XADD', KEYS[2], '*', 'step', ARGV[2])
return ARGV[2]
"""


async def chain(occasion: Occasion) -> int:
    async with open_client(occasion.server) as client:
        script = await client.script_load(STORE)
        await _chain(client, script, "warm-up", 2)
        with occasion.timed():
            return await _chain(client, script, "run", occasion.count)


async def _chain(client: Any, script: str, run: str, steps: int) -> int:
    await client.hset(f"{run}:state", "steps", 0)
    step = 0
    while step < steps:
        step = int(
            await client.execute_command(
                "EVALSHA", script, 2, f"{run}:state", f"{run}:events", step, step + 1
            )
        )
    return step
