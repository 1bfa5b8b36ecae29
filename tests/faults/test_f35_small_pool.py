"""F35: a thousand items at a time over a pool of four connections: commands wait for their turn, heartbeats do not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from graphflow import Agent, RedisCache
from graphflow.server import connection
from tests.acceptance.support import task
from tests.faults.harness import looking_at, run_field
from tests.faults.invariants import check_over
from tests.helpers import run
from tests.servers import RealServer

ITEMS = 1_000
CONNECTIONS = 4


@pytest.mark.parametrize("writes", [False, True], ids=["plain", "immediate"])
def test_a_thousand_items_at_a_time_over_four_connections_complete_under_one_lease(
    writes: bool, redis_server: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Immediate sets and steps are what makes items call the store by themselves."""
    monkeypatch.setitem(connection.open_client.__kwdefaults__, "max_connections", CONNECTIONS)
    at_once = 0
    connections: list[int] = []
    together = asyncio.Event()

    async def main() -> None:
        agent = Agent(
            cache=RedisCache(redis_server.url), name="f35", max_concurrent_tasks=ITEMS, lease_seconds=0.6
        )

        @agent.node
        def numbers() -> list[int]:
            return list(range(ITEMS))

        @agent.node(map_over="numbers")
        async def double(number: int, cache) -> int:
            nonlocal at_once
            at_once += 1
            if writes:
                await cache.step("asked", abs, number)
                await cache.set(f"seen {number % 10}", number, immediate=True)
            if at_once == ITEMS:
                together.set()
            await together.wait()
            await asyncio.sleep(0.5)
            if number % 100 == 0:
                connections.append(await asyncio.to_thread(own_connections, redis_server))
            return number * 2

        @agent.node
        def total(double: list[int]) -> int:
            return sum(double)

        async with asyncio.timeout(60):
            outcome = await agent.run_task(task(), run_id=tmp_path.name)

        assert (outcome.status, outcome["total"]) == ("complete", ITEMS * (ITEMS - 1))
        assert not outcome.failures

    run(main())

    assert max(connections) <= CONNECTIONS + 1, "the lease has one of its own"
    with looking_at(redis_server.url) as client:
        assert run_field(client, tmp_path.name, "leases") == "1"
        check_over(client, tmp_path.name, ["numbers", "double", "total"], ["double"], status="complete")


def own_connections(server: RealServer) -> int:
    with looking_at(server.url) as client:
        names = [str(each["name"]) for each in client.client_list()]
    return sum(name.startswith("graphflow:") and name.endswith(f":{os.getpid()}") for name in names)
