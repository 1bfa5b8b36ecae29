"""F39: a store in which runs come and go for ever does not grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from graphflow import Agent, RedisCache, Task
from tests.contract.driving import raw
from tests.faults.harness import Job
from tests.helpers import run as run_async
from tests.servers import RealServer

#: Seconds that a run is kept here.
KEPT_SECONDS = 1.0
RUNS_AT_A_TIME = 20
#: Runs after which the store is as it is with runs coming and going: connections open, scripts known.
WARM_UP = 100
#: Bytes by which the memory of an empty store may differ from itself.
NOISE = 512 * 1024


def agent_on(url: str) -> Agent:
    agent = Agent(
        cache=RedisCache(url),
        name="tiny",
        keep_complete_seconds=KEPT_SECONDS,
        keep_other_seconds=KEPT_SECONDS,
    )

    @agent.node
    def items() -> list[int]:
        return [1, 2]

    @agent.node(map_over="items", max_retries=1)
    async def double(item: int, task: Task) -> int:
        if task.params["number"] % 10 == 0:
            raise ValueError("one run in ten fails")
        return item * 2

    return agent


@asynccontextmanager
async def looking_at(url: str) -> AsyncIterator:
    client = await raw(url)
    try:
        yield client
    finally:
        await client.aclose()


async def run_many(agent: Agent, count: int) -> None:
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            outcome = await agent.run_task(
                Task(type="tiny", objective="come and go", params={"number": number})
            )
            assert outcome.status == ("failed" if number % 10 == 0 else "complete")

    async with asyncio.TaskGroup() as group:
        for _ in range(RUNS_AT_A_TIME):
            group.create_task(work())


async def emptied(agent: Agent, client) -> int:
    """The memory of the store, in bytes, when every run has ended and the indexes have been swept."""
    async with asyncio.timeout(30):
        while [key async for key in client.scan_iter("gf:run:*", count=1000)]:  # noqa: ASYNC110 - keys tell nobody
            await asyncio.sleep(0.05)
    async with agent.cache.store() as store:
        await store.upkeep(grace_seconds=0).sweep()
    assert [key async for key in client.scan_iter()] == ["gf:meta"]
    await client.execute_command("MEMORY", "PURGE")
    return int((await client.info("memory"))["used_memory"])


@pytest.mark.parametrize("runs", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_runs_that_come_and_go_leave_memory_and_keys_as_they_were(runs: int) -> None:
    async def main(server: RealServer) -> None:
        agent = agent_on(server.url)
        async with looking_at(server.url) as client:
            await run_many(agent, WARM_UP)
            before = await emptied(agent, client)
            began = time.monotonic()
            peak = 0

            async def watch() -> None:
                nonlocal peak
                while True:
                    peak = max(peak, await client.dbsize())
                    await asyncio.sleep(0.1)

            watching = asyncio.create_task(watch())
            await run_many(agent, runs)
            watching.cancel()
            seconds = time.monotonic() - began
            after = await emptied(agent, client)

        print(
            f"{runs} runs in {seconds:.1f} s: at most {peak} keys at a time, "
            f"{before / 1024:.0f} KiB before, {after / 1024:.0f} KiB after"
        )
        assert after - before < NOISE
        # About ten keys a run, of those that ended within the last seconds.
        assert peak < 20 * (runs / seconds * (KEPT_SECONDS + 2) + RUNS_AT_A_TIME)

    with RealServer("current", appendfsync="no") as server:
        run_async(main(server))


def test_run_whose_driver_died_before_its_keys_had_an_end_is_given_one_by_a_sweep(
    redis_url: str, tmp_path: Path
) -> None:
    job = Job(redis_url, f"{tmp_path.name}-unended", "map", tmp_path / "log")

    async def ends(client) -> set[bool]:
        keys = [key async for key in client.scan_iter(f"gf:run:{{{job.run_id}}}*", count=1000)]
        assert len(keys) > 8
        return {await client.ttl(key) > 0 for key in keys}

    async def main() -> None:
        async with looking_at(redis_url) as client, RedisCache(redis_url).store() as store:
            assert await ends(client) == {False}
            swept = await store.upkeep().sweep()
            assert job.run_id in swept.expired
            assert await ends(client) == {True}

    assert job.start("expire.before=kill").died()
    run_async(main())
    assert job.start().finish()["status"] == "complete"
