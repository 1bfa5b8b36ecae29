"""A slow map holds back what depends on it, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from graphflow import RunStatus
from tests.acceptance.support import agent_on, task, until
from tests.helpers import run

COUNT = 200


class Branches:
    """A map of which every twentieth item waits until the other branch is done, beside that other branch."""

    def __init__(self, url: str, source: Any = "items", **options: Any) -> None:
        self.agent = agent_on(url, max_concurrent_tasks=20)
        self.is_free = asyncio.Event()
        self.order: list[str] = []
        self.agent.node(name="slow", map_over=source, **options)(self.slow)
        self.agent.node(name="after_slow")(lambda slow: self.order.append("after_slow"))

    async def slow(self, item: int) -> int:
        if item % 20 == 0:
            await self.is_free.wait()
        return item

    async def end(self, **inputs: Any) -> Any:
        async with asyncio.timeout(20):
            return await self.agent.run_task(task(), state={"items": list(range(COUNT))})


async def elements() -> AsyncIterator[int]:
    for number in range(COUNT):
        yield number


@pytest.mark.parametrize("source", ["items", elements], ids=["list", "generator"])
def test_unrelated_branch_ends_before_a_slow_map(redis_url: str, source: Any) -> None:
    async def main() -> None:
        branches = Branches(redis_url, source)

        @branches.agent.node
        async def first() -> int:
            return 1

        @branches.agent.node
        async def second(first: int) -> int:
            return first + 1

        @branches.agent.node
        async def third(second: int) -> int:
            branches.order.append("third")
            # Only now the slow items go on: were there a barrier, the run would not end.
            branches.is_free.set()
            return second + 1

        outcome = await branches.end()

        assert outcome.status is RunStatus.COMPLETE
        assert branches.order == ["third", "after_slow"]
        assert outcome["third"] == 3
        assert outcome["slow"] == list(range(COUNT))

    run(main())


@pytest.mark.parametrize("source", ["items", elements], ids=["list", "generator"])
def test_other_map_and_its_dependents_end_before_a_slow_map(redis_url: str, source: Any) -> None:
    async def main() -> None:
        branches = Branches(redis_url, source)

        @branches.agent.node(map_over="items")
        async def quick(item: int) -> int:
            await asyncio.sleep(0)
            return item

        @branches.agent.node(map_over="quick")
        async def quick_again(item: int) -> int:
            return item + 1

        @branches.agent.node
        async def total(quick_again: list[int]) -> int:
            branches.order.append("total")
            branches.is_free.set()
            return sum(quick_again)

        outcome = await branches.end()

        assert outcome.status is RunStatus.COMPLETE
        assert branches.order == ["total", "after_slow"]
        assert outcome["total"] == sum(range(COUNT)) + COUNT

    run(main())


def test_slow_items_hold_back_no_other_items_of_their_map(redis_url: str) -> None:
    async def main() -> None:
        ended: list[int] = []
        agent = agent_on(redis_url, max_concurrent_tasks=20)

        @agent.node(map_over="items")
        async def work(item: int) -> None:
            if item % 20 == 0:
                await until(lambda: len(ended) >= COUNT - COUNT // 20)
            ended.append(item)

        async with asyncio.timeout(20):
            outcome = await agent.run_task(task(), state={"items": list(range(COUNT))})

        assert outcome.status is RunStatus.COMPLETE
        assert all(item % 20 for item in ended[: COUNT - COUNT // 20])

    run(main())


def test_branch_goes_on_while_a_generator_has_nothing_to_yield(redis_url: str) -> None:
    async def main() -> None:
        is_free = asyncio.Event()
        order: list[str] = []
        agent = agent_on(redis_url, max_concurrent_tasks=1)

        async def waiting() -> AsyncIterator[int]:
            yield 1
            await is_free.wait()
            yield 2

        @agent.node(map_over=waiting)
        async def slow(item: int) -> int:
            order.append(f"item {item}")
            return item

        @agent.node
        async def first() -> int:
            return 1

        @agent.node
        async def second(first: int) -> None:
            order.append("second")
            is_free.set()

        async with asyncio.timeout(20):
            outcome = await agent.run_task(task())

        assert outcome["slow"] == [1, 2]
        assert order.index("second") < order.index("item 2")

    run(main())
