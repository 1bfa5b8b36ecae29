"""A chain with redis-py: one HSET for each step, awaited."""

from __future__ import annotations

from benchmarks.client import open_client
from benchmarks.occasion import Occasion


async def chain(occasion: Occasion) -> int:
    async with open_client(occasion.server) as client:
        await client.hset("state", "steps", 0)
        with occasion.timed():
            for step in range(occasion.count):
                await client.hset("state", "steps", step + 1)
        return int(await client.hget("state", "steps"))
