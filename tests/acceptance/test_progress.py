"""Looking at a map while it runs: how far it is, from another agent than the one that drives it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from graphflow import Agent, MapProgress, RedisCache, RunNotFound, Task
from tests.acceptance.support import agent_on, task


def test_progress_is_seen_by_an_agent_that_knows_nothing_of_the_graph(redis_url: str) -> None:
    agent = agent_on(redis_url)
    release = asyncio.Event()

    @agent.node(map_over="items", max_retries=1)
    async def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        if item >= 6:
            await release.wait()
        return item

    @agent.node(map_over="work")
    async def later(item: int) -> int:
        return item

    async def main() -> None:
        watcher = Agent(cache=RedisCache(redis_url))
        running = asyncio.create_task(
            agent.run_task(task(), state={"items": list(range(8))}, run_id="progress-1")
        )
        seen: list[dict[str, MapProgress]] = []

        async def look() -> bool:
            try:
                seen.append(await watcher.progress("progress-1"))
            except RunNotFound:
                return False
            return seen[-1]["work"].done + seen[-1]["work"].failed == 6

        async with asyncio.timeout(10):
            while not await look():  # noqa: ASYNC110 - what is waited for is in Redis
                await asyncio.sleep(0.005)
        half = seen[-1]
        release.set()
        await running
        over = await watcher.progress("progress-1")

        assert list(half) == ["work", "later"]
        assert (half["work"].total, half["work"].failed, half["work"].fraction) == (8, 1, 0.75)
        assert half["work"].eta_seconds is not None
        assert half["later"] == MapProgress()
        assert (over["work"].done, over["work"].fraction, over["work"].eta_seconds) == (7, 1.0, 0.0)
        assert (over["later"].total, over["later"].fraction) == (7, 1.0)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["async", "sync", "with state"])
def test_item_beyond_its_timeout_is_a_straggler(redis_url: str, kind: str) -> None:
    agent = agent_on(redis_url)
    let_go = threading.Event()
    run_id = f"progress-{kind.replace(' ', '-')}"

    async def waits(item: int) -> None:
        await asyncio.sleep(item)

    def blocks(item: int) -> None:
        if item:
            let_go.wait(60)

    async def waits_with_state(item: int, task: Task) -> None:
        await asyncio.sleep(item)

    work = {"async": waits, "sync": blocks, "with state": waits_with_state}[kind]
    agent.node(map_over="items", name="work", timeout=1, max_retries=1)(work)

    async def main() -> None:
        try:
            await agent.run_task(task(), state={"items": [60, *[0] * 7]}, run_id=run_id)
        finally:
            let_go.set()

        progress = (await agent.progress(run_id))["work"]
        assert (progress.done, progress.failed) == (7, 1)
        assert dict(progress.stragglers)[0] >= 1

    asyncio.run(main())


def test_progress_of_an_unknown_run_says_so(redis_url: str) -> None:
    with pytest.raises(RunNotFound, match="progress-nowhere"):
        asyncio.run(agent_on(redis_url).progress("progress-nowhere"))
