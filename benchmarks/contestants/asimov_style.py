"""The way of asimov_agents, imitated: one node whose modules run in parallel, each writing its result to a Redis cache.

Each module runs under a semaphore and a timeout, and each `set` is a command of its own. What is kept are the values
and not how far the run came. An imitation, for the package needs Python 3.12; its conditions, tracing and snapshots
are left out, and its values are plain JSON, all of which makes this faster than the original.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio as redis

from benchmarks.occasion import Occasion

#: How many modules run at a time. The cache opens a connection for each, as its client does by default.
CONCURRENCY = 50
TIMEOUT_SECONDS = 60.0

Module = Callable[["RedisCache"], Awaitable[dict[str, Any]]]


class RedisCache:
    """A key for each value; each `get` and `set` is one command."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._prefix = prefix

    async def get(self, key: str, default: Any = None) -> Any:
        value = await self._client.get(f"{self._prefix}:{key}")
        return json.loads(value) if value else default

    async def set(self, key: str, value: Any) -> None:
        await self._client.set(f"{self._prefix}:{key}", json.dumps(value))

    async def close(self) -> None:
        await self._client.aclose()


async def each_item(occasion: Occasion) -> int:
    await _parallel_node(occasion, "warm-up", occasion.warm_up_items)
    with occasion.timed():
        return await _parallel_node(occasion, "run", occasion.items)


async def _parallel_node(occasion: Occasion, prefix: str, items: range) -> int:
    def module(item: int) -> Module:
        async def process(cache: RedisCache) -> dict[str, Any]:
            result = await occasion.body(item)
            await cache.set(f"result_{item}", result)
            return {"status": "success", "result": result}

        return process

    cache = RedisCache(occasion.server.unix_url, prefix)
    semaphore = asyncio.Semaphore(CONCURRENCY)
    outcomes = await asyncio.gather(*[_run(module(item), cache, semaphore) for item in items])
    await cache.close()
    return occasion.total(outcome["result"] for outcome in outcomes)


async def chain(occasion: Occasion) -> int:
    async def step(cache: RedisCache) -> dict[str, Any]:
        await cache.set("steps", await cache.get("steps", 0) + 1)
        return {"status": "success"}

    cache = RedisCache(occasion.server.unix_url, "run")
    await cache.set("steps", 0)
    semaphore = asyncio.Semaphore(CONCURRENCY)
    with occasion.timed():
        for _ in range(occasion.count):
            await _run(step, cache, semaphore)
    steps = await cache.get("steps")
    await cache.close()
    return int(steps)


async def _run(module: Module, cache: RedisCache, semaphore: asyncio.Semaphore) -> dict[str, Any]:
    async with semaphore, asyncio.timeout(TIMEOUT_SECONDS):
        return await module(cache)
