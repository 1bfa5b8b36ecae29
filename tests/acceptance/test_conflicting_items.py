"""Items of maps that want the same keys: whatever the width, none waits for ever, none is lost, none counts twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graphflow import MapProgress, RunStatus
from tests.acceptance.support import agent_on, task

WIDTHS = [1, 2, 3, 5, 10, 20]


@pytest.mark.parametrize("pause", [None, 0, 0.002])
@pytest.mark.parametrize("width", WIDTHS)
def test_items_of_a_bounded_map_that_count_in_one_key_all_end_and_lose_nothing(
    redis_url: str, width: int, pause: float | None
) -> None:
    agent = agent_on(redis_url)

    @agent.node(map_over="items", max_concurrency=width)
    async def add(item: int, cache: Any) -> int:
        seen = await cache.get("count", 0)
        if pause is not None:
            await asyncio.sleep(pause)
        await cache.set("count", seen + 1)
        return item

    outcome = asyncio.run(asyncio.wait_for(agent.run_task(task(), state={"items": list(range(40))}), 60))

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["count"] == 40
    assert outcome["add"] == list(range(40))


@pytest.mark.parametrize("width", WIDTHS)
def test_items_of_a_bounded_map_that_count_in_several_keys_all_end_and_lose_nothing(
    redis_url: str, width: int
) -> None:
    agent = agent_on(redis_url)

    @agent.node(map_over="items", max_concurrency=width)
    async def add(item: int, cache: Any) -> int:
        first, second = f"count{item % 3}", f"count{(item + 1) % 3}"
        seen = await cache.get(first, 0), await cache.get(second, 0)
        await asyncio.sleep(0)
        await cache.set(first, seen[0] + 1)
        await cache.set(second, seen[1] + 1)
        return item

    outcome = asyncio.run(asyncio.wait_for(agent.run_task(task(), state={"items": list(range(40))}), 60))

    assert outcome.status is RunStatus.COMPLETE
    assert sum(outcome[f"count{number}"] for number in range(3)) == 80
    assert outcome["add"] == list(range(40))


@pytest.mark.parametrize("limit", [None, 2])
def test_map_whose_items_all_wait_for_a_message_that_nobody_sends_is_failed_as_stalled(
    redis_url: str, limit: int | None
) -> None:
    agent = agent_on(redis_url)

    @agent.node(map_over="items", max_concurrency=limit)
    async def wait(item: int, cache: Any) -> Any:
        return await cache.get_message("never")

    outcome = asyncio.run(asyncio.wait_for(agent.run_task(task(), state={"items": list(range(5))}), 60))

    assert outcome.status is RunStatus.FAILED
    assert "stalled: 'wait' waits for a message in 'never'" in outcome.error


def test_progress_tells_of_items_that_write_state_as_of_others(redis_url: str) -> None:
    agent = agent_on(redis_url)
    failed: set[int] = set()

    @agent.node(map_over="items", max_concurrency=4, max_retries=2)
    async def add(item: int, cache: Any) -> int:
        await cache.increment("sum", item)
        await asyncio.sleep(0.001)
        if item % 3 == 0 and item not in failed:
            failed.add(item)
            raise ValueError("the first attempt fails")
        return item

    async def main() -> MapProgress:
        outcome = await agent.run_task(task(), state={"items": list(range(30))})
        assert outcome["sum"] == sum(range(30))
        return (await agent.progress(outcome.run_id))["add"]

    progress = asyncio.run(main())

    assert progress.retried == 10
    assert progress.median_seconds is not None
    assert progress.active == 0
