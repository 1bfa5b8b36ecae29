"""Ending a run from outside, and giving it back unfinished."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

import graphflow
from graphflow import Agent, RedisCache, RunStatus, Task
from graphflow.errors import RunInterrupted, RunNotFound
from tests.helpers import SOON_SECONDS, run, wait_until


class Watched:
    """An agent whose slow node tells what it sees."""

    def __init__(self, url: str, lease_seconds: float = 1) -> None:
        self.agent = Agent(cache=RedisCache(url), lease_seconds=lease_seconds)
        self.begun = asyncio.Event()
        self.saw: list[str] = []

        @self.agent.node
        async def slow() -> str:
            self.begun.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.saw.append("CancelledError")
                raise
            return "never"

        @self.agent.node
        def after(slow: str) -> str:
            self.saw.append("after")
            return slow


def test_cancel_from_elsewhere_reaches_the_module_within_a_third_of_the_lease(redis_url: str) -> None:
    async def main() -> None:
        driving, asking = Watched(redis_url, lease_seconds=1), Watched(redis_url, lease_seconds=1)
        running = asyncio.create_task(driving.agent.run_task(Task(type="cancel"), run_id="cancel-1"))
        await driving.begun.wait()
        asked = time.monotonic()

        status = await asking.agent.cancel("cancel-1", "enough of it")
        outcome = await running

        assert time.monotonic() - asked < SOON_SECONDS
        assert status is outcome.status is RunStatus.CANCELLED
        assert outcome.error is not None
        assert "enough of it" in outcome.error
        assert driving.saw == ["CancelledError"]
        assert await asking.agent.cancel("cancel-1") is RunStatus.CANCELLED

    run(main())


def test_cancelling_a_run_that_nobody_drives_ends_it_without_running_anything(redis_url: str) -> None:
    async def main() -> None:
        first, second = Watched(redis_url), Watched(redis_url)
        running = asyncio.create_task(first.agent.run_task(Task(type="cancel"), run_id="cancel-2"))
        await first.begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        status = await second.agent.cancel("cancel-2")

        assert status is RunStatus.CANCELLED
        assert not second.begun.is_set()

    run(main())


def test_cancelling_an_unknown_run_says_so(redis_url: str) -> None:
    with pytest.raises(RunNotFound, match="no-such-run"):
        run(Agent(cache=RedisCache(redis_url)).cancel("no-such-run"))


def test_sync_body_sees_that_its_run_was_cancelled(redis_url: str) -> None:
    begun, seen = threading.Event(), threading.Event()
    agent = Agent(cache=RedisCache(redis_url), lease_seconds=1)

    @agent.node
    def work() -> None:
        begun.set()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not graphflow.is_cancelled():
            time.sleep(0.01)
        if graphflow.is_cancelled():
            seen.set()

    async def main() -> None:
        running = asyncio.create_task(agent.run_task(Task(type="cancel"), run_id="cancel-3"))
        await asyncio.to_thread(begun.wait, 10)
        await agent.cancel("cancel-3")
        assert (await running).status is RunStatus.CANCELLED

    run(main())
    wait_until(seen.is_set, what="the sync body to see the cancellation")


def test_drained_run_commits_what_runs_and_is_given_back(redis_url: str, tmp_path: Path) -> None:
    log = tmp_path / "items"

    def make() -> Agent:
        agent = Agent(cache=RedisCache(redis_url), max_concurrent_tasks=5)

        @agent.node(map_over="numbers")
        async def double(number: int) -> int:
            with log.open("a") as file:
                file.write(f"{number}\n")
            await asyncio.sleep(0.05)
            return 2 * number

        @agent.node
        def total(double: list[int]) -> int:
            return sum(double)

        return agent

    async def main() -> None:
        task, state = Task(type="drain"), {"numbers": list(range(40))}
        first = make()
        running = asyncio.create_task(first.run_task(task, state=state, run_id="drain-1"))
        await asyncio.to_thread(wait_until, log.exists)

        first.drain()
        with pytest.raises(RunInterrupted, match="drain-1"):
            await running
        ran_before = log.read_text().split()
        outcome = await make().run_task(task, state=state, run_id="drain-1")

        assert 0 < len(ran_before) < 40
        assert outcome["total"] == sum(2 * number for number in range(40))
        assert sorted(map(int, log.read_text().split())) == list(range(40))

    run(main())
