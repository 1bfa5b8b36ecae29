"""A generator is drawn from as its items are done: a million elements are never in memory, nor in Redis."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from graphflow import Agent, RunStatus
from graphflow.engine.maps.feed import AHEAD_ITEMS
from graphflow.rules.pages import WINDOW_ITEMS
from tests.acceptance.support import agent_on, cancel, task, until
from tests.faults.harness import looking_at
from tests.helpers import run
from tests.servers import RealServer

MILLION = 1_000_000
#: Seconds in which nothing more may come.
STILL_SECONDS = 1.0
#: Bytes by which a process, or the server, may grow: a million elements would take a hundred megabytes.
GROWTH = 30_000_000


class Stopped:
    """A map over a million elements whose items hold every slot until `go_on` is set."""

    def __init__(self, url: str, *, is_async: bool = True, text: str = "", **options: Any) -> None:
        self.agent = agent_on(url, max_concurrent_tasks=20)
        self.go_on = asyncio.Event()
        self.yielded = self.begun = self.done = 0
        self.text = text
        self.agent.node(name="work", map_over=self.asynchronous if is_async else self.in_threads, **options)(
            self.work
        )

    async def asynchronous(self) -> AsyncIterator[Any]:
        for element in self.in_threads():
            yield element

    def in_threads(self) -> Iterator[Any]:
        for number in range(MILLION):
            self.yielded += 1
            yield f"{number}{self.text}"

    async def work(self, item: Any) -> None:
        self.begun += 1
        await self.go_on.wait()
        self.done += 1

    async def wait_still(self) -> None:
        """Until the generator has been held for some time."""
        await until(lambda: self.begun)
        loop = asyncio.get_running_loop()
        last, since = self.yielded, loop.time()
        while loop.time() < since + STILL_SECONDS:
            await asyncio.sleep(0.05)
            if self.yielded != last:
                last, since = self.yielded, loop.time()
            assert self.yielded < 100_000, "nothing holds the generator"


@pytest.mark.parametrize("is_async", [True, False])
def test_consumers_that_stop_hold_the_generator(is_async: bool) -> None:
    async def main(server: RealServer) -> None:
        with looking_at(server.url) as redis:
            stopped = Stopped(server.url, is_async=is_async)
            before = redis.info("memory")["used_memory"]
            running = asyncio.create_task(stopped.agent.run_task(task(), run_id="stopped"))
            await until(lambda: stopped.begun == 20)
            memory = resident_bytes()

            await stopped.wait_still()

            most = WINDOW_ITEMS + AHEAD_ITEMS
            key = "gf:run:{stopped}:map:work"
            assert redis.hlen(f"{key}:in") <= most
            assert stopped.yielded <= most + AHEAD_ITEMS
            assert resident_bytes() - memory < GROWTH
            assert redis.info("memory")["used_memory"] - before < GROWTH
            assert redis.dbsize() < 20
            assert stopped.begun == 20

            stopped.go_on.set()
            await until(lambda: stopped.done > 3 * most)
            assert int(redis.hget(key, "span")) > most
            assert stopped.yielded <= stopped.done + 2 * most, "it goes on as its items are done"
            assert resident_bytes() - memory < GROWTH
            await cancel(running)

    with RealServer() as server:
        run(main(server))


def test_elements_wait_by_their_size_and_not_by_their_number(redis_url: str) -> None:
    """Elements of ten kilobytes: a page of a thousand would be ten megabytes."""

    async def main() -> None:
        stopped = Stopped(redis_url, text="x" * 10_000)
        memory = resident_bytes()
        running = asyncio.create_task(stopped.agent.run_task(task()))
        await stopped.wait_still()

        assert resident_bytes() - memory < 2 * GROWTH
        assert stopped.yielded <= WINDOW_ITEMS + AHEAD_ITEMS
        await cancel(running)

    run(main())


def test_window_is_as_wide_as_what_runs_at_a_time(redis_url: str) -> None:
    """More slots than the window has items: all of them are used."""

    async def main() -> None:
        stopped = Stopped(redis_url)
        stopped.agent.max_concurrent_tasks = 3_000
        running = asyncio.create_task(stopped.agent.run_task(task()))
        await until(lambda: stopped.begun == 3_000)
        await stopped.wait_still()

        assert stopped.yielded <= 2 * 3_000 + 3 * AHEAD_ITEMS
        await cancel(running)

    run(main())


def test_window_counts_elements_that_become_items(redis_url: str) -> None:
    """Of those that `where` leaves out nothing waits, however many they are."""
    agent = Agent(cache=agent_on(redis_url).cache)
    memory = resident_bytes()

    def numbers() -> Iterator[int]:
        yield from range(300_000)

    @agent.node(map_over=numbers, where=lambda item: item % 100_000 == 0)
    async def work(item: int) -> int:
        return item

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["work"] == [0, 100_000, 200_000]
    assert resident_bytes() - memory < GROWTH


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
