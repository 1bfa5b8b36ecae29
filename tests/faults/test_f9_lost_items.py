"""F9: the store has lost the items of a map while they were about to be read. They are not corrupt: the run goes on from
what the store has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import redis

from graphflow import Agent, RedisCache, Task
from graphflow.engine.maps import items as maps
from graphflow.graph.tasks import RunStatus
from graphflow.store.redis_store import RedisStore

COUNT = 300


def test_f9_items_that_are_missing_since_the_store_went_back_are_read_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set back, at the first look for items that do not fit into memory, to where the map had not been opened."""
    earlier: dict[bytes, bytes] = {}
    lost: list[int] = []
    read = RedisStore.items

    async def read_after_the_loss(
        self: RedisStore, run_id: str, node: str, indexes: Sequence[int], lender: str | None = None
    ) -> list[str]:
        if not lost:
            lost.extend(indexes)
            with redis.Redis.from_url(redis_url) as client:
                for key in client.keys("gf:run:{set-back}*"):
                    client.delete(key)
                for key, value in earlier.items():
                    client.restore(key, 0, value)
        return await read(self, run_id, node, indexes, lender)  # type: ignore[arg-type]

    monkeypatch.setattr(RedisStore, "items", read_after_the_loss)
    monkeypatch.setattr(maps, "QUEUE_ITEMS", 10)
    is_noticed = asyncio.Event()
    agent = Agent(cache=RedisCache(redis_url), max_concurrent_tasks=50)

    @agent.node
    async def split() -> list[int]:
        await asyncio.sleep(0)
        with redis.Redis.from_url(redis_url) as client:
            if not earlier:
                keys = client.keys("gf:run:{set-back}*")
                earlier.update({key: client.dump(key) for key in keys})  # type: ignore[misc]
        return list(range(COUNT))

    @agent.node(map_over="split")
    async def double(number: int) -> int:
        # No commit but those of the run that was loaded anew: the reader is the first to meet the loss.
        if not is_noticed.is_set():
            try:
                await asyncio.sleep(60)
            finally:
                is_noticed.set()
        return 2 * number

    @agent.node
    def total(double: list[int]) -> int:
        return sum(double)

    outcome = agent.run_task_sync(Task(type="set-back"), run_id="set-back")

    assert lost, "items were read from the store"
    assert outcome.status is RunStatus.COMPLETE
    assert outcome["total"] == COUNT * (COUNT - 1)
