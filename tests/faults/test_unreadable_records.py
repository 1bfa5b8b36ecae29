"""A map's records that cannot be read are the store's trouble: they use up no attempt of the module that reads them."""

from __future__ import annotations

import pytest
import redis

from graphflow import Agent, RedisCache, Task
from graphflow.errors import CorruptState
from tests.helpers import run


def test_corrupt_record_of_a_map_ends_the_driving_and_not_the_node(redis_url: str) -> None:
    agent, reads = Agent(cache=RedisCache(redis_url)), []
    client = redis.Redis.from_url(redis_url, decode_responses=True)

    @agent.node(map_over="numbers")
    async def double(number: int) -> int:
        return 2 * number

    @agent.node(dependencies=["double"])
    def spoil(task: Task) -> None:
        client.delete("gf:run:{corrupt-1}:map:double:out")
        client.set("gf:run:{corrupt-1}:map:double:out", "not a hash")

    @agent.node(dependencies=["spoil"])
    async def total(cache) -> int:  # type: ignore[no-untyped-def]
        reads.append(1)
        return sum(await cache.get("double"))

    with pytest.raises(CorruptState, match="map:double:out"):
        run(agent.run_task(Task(type="corrupt"), state={"numbers": [1, 2, 3]}, run_id="corrupt-1"))

    assert len(reads) == 1
    assert client.hget("gf:run:{corrupt-1}:nodes", "total") == "running"
    assert client.hget("gf:run:{corrupt-1}:node:total", "attempts:0") is None
    client.close()
