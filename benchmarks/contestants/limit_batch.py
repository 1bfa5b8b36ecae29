"""The limit for items in Lua: one call for each 100 finished items, which stores them and counts them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from benchmarks.client import open_client
from benchmarks.occasion import Occasion

BATCH = 100

STORE = """
local stored = {}
for i = 1, #ARGV do stored[i] = ARGV[i] end
redis.call('HSET', KEYS[1], unpack(stored))
return redis.call('HINCRBY', KEYS[2], 'done', #ARGV / 2)
"""


async def each_item(occasion: Occasion) -> int:
    async with open_client(occasion.server) as client:
        script = await client.script_load(STORE)
        await _each_item(client, script, "warm-up", occasion, occasion.warm_up_items)
        with occasion.timed():
            return await _each_item(client, script, "run", occasion, occasion.items)


async def _each_item(client: Any, script: str, run: str, occasion: Occasion, items: range) -> int:
    results: list[Any] = []
    for start in range(items.start, items.stop, BATCH):
        batch = items[start : start + BATCH]
        finished = await asyncio.gather(*map(occasion.body, batch))
        fields = [
            part
            for index, result in zip(batch, finished, strict=True)
            for part in (index, json.dumps(result))
        ]
        await client.execute_command("EVALSHA", script, 2, f"{run}:results", f"{run}:counters", *fields)
        results += finished
    return occasion.total(results)
