"""A map over the results of a map: its items are the records of the other one, of which there is no copy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import redis

from graphflow import Agent, RedisCache, Task
from graphflow.errors import InvalidGraph
from graphflow.graph.tasks import RunStatus

TASK = Task(type="pipeline")


def pipeline(url: str, **options: object) -> Agent:
    agent = Agent(cache=RedisCache(url), max_concurrent_tasks=20)

    @agent.node(map_over="numbers", max_retries=1)
    async def double(number: int) -> int:
        if number == 3:
            raise ValueError("three is refused")
        return 2 * number

    @agent.node(map_over="double", **options)
    async def describe(doubled: int, index: int) -> str:
        return f"{index}:{doubled}"

    return agent


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is waited for is in the store
            await asyncio.sleep(0.01)


def stored(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True)


def test_items_of_a_map_over_a_map_keep_their_index(redis_url: str) -> None:
    outcome = pipeline(redis_url).run_task_sync(TASK, state={"numbers": list(range(6))})

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["describe"] == ["0:0", "1:2", "2:4", "4:8", "5:10"]


def test_items_of_a_map_over_a_map_are_not_copied(redis_url: str) -> None:
    outcome = pipeline(redis_url).run_task_sync(TASK, state={"numbers": list(range(3_000))})

    with stored(redis_url) as client:
        key = f"gf:run:{{{outcome.run_id}}}:map:describe"
        assert client.hget(key, "done") == "2999"
        assert client.hget(key, "borrowed") == "1"
        assert not client.exists(f"{key}:in")


def test_filtered_map_over_a_map_has_items_of_its_own(redis_url: str) -> None:
    agent = pipeline(redis_url, where="item > 4")

    outcome = agent.run_task_sync(TASK, state={"numbers": list(range(6))})

    assert outcome["describe"] == ["4:8", "5:10"]
    with stored(redis_url) as client:
        items = client.hgetall(f"gf:run:{{{outcome.run_id}}}:map:describe:in")
    assert items == {"4": "8", "5": "10"}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_map_over_a_map_of_few_items(redis_url: str, count: int) -> None:
    outcome = pipeline(redis_url).run_task_sync(TASK, state={"numbers": list(range(count))})

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["describe"] == [f"{index}:{2 * index}" for index in range(count)]


def test_interrupted_map_over_a_map_goes_on_with_the_items_that_have_no_record(redis_url: str) -> None:
    ran: list[int] = []
    opened = asyncio.Event()

    def build() -> Agent:
        agent = Agent(cache=RedisCache(redis_url), max_concurrent_tasks=5)

        @agent.node(map_over="numbers")
        async def double(number: int) -> int:
            return 2 * number

        @agent.node(map_over="double")
        async def describe(doubled: int, index: int) -> int:
            ran.append(index)
            if index >= 40:
                await opened.wait()
            return doubled + 1

        return agent

    async def main() -> None:
        state = {"numbers": list(range(60))}
        first = asyncio.create_task(build().run_task(TASK, state=state, run_id="interrupted"))
        with stored(redis_url) as client:
            await until(lambda: client.hget("gf:run:{interrupted}:map:describe", "done") == "40")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        ran.clear()
        opened.set()

        outcome = await build().run_task(TASK, state=state, run_id="interrupted")

        assert outcome["describe"] == [2 * number + 1 for number in range(60)]
        assert sorted(ran) == list(range(40, 60))

    asyncio.run(main())


@pytest.mark.parametrize("where", [None, "item >= 0"])
def test_map_starts_again_only_when_nobody_goes_through_its_records(
    redis_url: str, where: str | None
) -> None:
    """A jump to the first map while the second is under way: the second sees one visit's records, whole."""
    began, seen = asyncio.Event(), []
    agent = Agent(cache=RedisCache(redis_url), max_concurrent_tasks=3)

    @agent.node(map_over="numbers", start=True)
    async def double(number: int, cache) -> int:
        return number * await cache.get("factor", 2)

    @agent.node(map_over="double", where=where)
    async def collect(doubled: int, index: int) -> int:
        began.set()
        await asyncio.sleep(0)
        return doubled

    @agent.node(outputs=["factor"])
    async def change(cache) -> None:
        await began.wait()
        await cache.set("factor", 5)

    @agent.decide(after="change", to=["double"])
    def back(change: None) -> str:
        return "double"

    @agent.node(max_visits=5)
    def total(collect: list[int]) -> int:
        seen.append(collect)
        return sum(collect)

    outcome = agent.run_task_sync(TASK, state={"numbers": list(range(1_200))})

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert seen == [[2 * number for number in range(1_200)], [5 * number for number in range(1_200)]]


def test_failed_items_of_a_map_over_a_map_are_tried_again_in_a_fork(redis_url: str) -> None:
    refused = {7}
    agent = Agent(cache=RedisCache(redis_url))

    @agent.node(map_over="numbers")
    async def double(number: int) -> int:
        return 2 * number

    @agent.node(map_over="double", max_retries=1)
    async def check(doubled: int, index: int) -> int:
        if index in refused:
            raise ValueError("refused for now")
        return doubled

    async def main() -> None:
        first = await agent.run_task(TASK, state={"numbers": list(range(10))})
        assert first.status is RunStatus.PARTIAL
        refused.clear()

        again = await agent.fork(first.run_id)

        assert again.status is RunStatus.COMPLETE, again.error
        assert again["check"] == [2 * number for number in range(10)]

    asyncio.run(main())


# Pipelined


def two_stages(
    url: str, hold: asyncio.Event, seen: list[int], release_at: int = 0, **options: object
) -> Agent:
    """Item 0 of the first stage waits for `hold`, which is set when `release_at` items of the second have started;
    `seen` lists these in the order of their starts."""
    agent = Agent(cache=RedisCache(url), max_concurrent_tasks=50)

    @agent.node(map_over="numbers", max_retries=1, **options)
    async def double(number: int) -> int:
        if number == 0:
            await hold.wait()
        if number == 3:
            raise ValueError("three is refused")
        return 2 * number

    @agent.node(map_over="double", pipelined=True)
    async def describe(doubled: int, index: int) -> str:
        seen.append(index)
        if len(seen) == release_at:
            hold.set()
        return f"{index}:{doubled}"

    @agent.node
    async def count(describe: list[str]) -> int:
        return len(describe)

    return agent


def test_pipelined_map_does_not_wait_for_slow_items_of_the_map_before_it(redis_url: str) -> None:
    async def main() -> None:
        seen: list[int] = []
        agent = two_stages(redis_url, asyncio.Event(), seen, release_at=38)

        # The slow item ends when the second stage has done all others.
        async with asyncio.timeout(20):
            outcome = await agent.run_task(TASK, state={"numbers": list(range(40))})

        assert outcome.status is RunStatus.PARTIAL
        assert outcome["describe"] == [f"{index}:{2 * index}" for index in range(40) if index != 3]
        assert outcome["count"] == 39
        assert seen[-1] == 0
        assert sorted(seen) == [index for index in range(40) if index != 3]
        assert outcome.node_results["describe"].visits == 1

    asyncio.run(main())


@pytest.mark.parametrize("count", [0, 1, 2, 5_000])
def test_pipeline_of_three_stages_over_a_generator(redis_url: str, count: int) -> None:
    agent = Agent(cache=RedisCache(redis_url), max_concurrent_tasks=100)

    async def rows():  # type: ignore[no-untyped-def]
        for number in range(count):
            yield number

    @agent.node(map_over=rows)
    async def first(row: int) -> int:
        return row + 1

    @agent.node(map_over="first", pipelined=True)
    def second(one: int) -> int:
        return 2 * one

    @agent.node(map_over="second", pipelined=True, batch_size=7)
    async def third(twos: list[int]) -> list[int]:
        return [two + 1 for two in twos]

    @agent.node
    def total(third: list[int]) -> int:
        return sum(third)

    outcome = agent.run_task_sync(TASK)

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["total"] == sum(2 * (number + 1) + 1 for number in range(count))
    assert [outcome.node_results[name].visits for name in ("first", "second", "third")] == [1, 1, 1]


def test_pipelined_map_fails_with_the_map_that_it_follows(redis_url: str) -> None:
    async def main() -> None:
        agent = two_stages(redis_url, asyncio.Event(), [], on_item_error="fail")

        outcome = await agent.run_task(TASK, state={"numbers": list(range(10))})

        assert outcome.status is RunStatus.FAILED
        assert outcome.node_results["describe"].error == (
            "SourceFailed: 'double', over whose results it maps, failed"
        )
        assert outcome.node_results["count"].status == "pending"

    asyncio.run(main())


def test_interrupted_pipeline_goes_on_where_it_was(redis_url: str) -> None:
    seen: list[int] = []

    async def main() -> None:
        state = {"numbers": list(range(60))}
        first = asyncio.create_task(
            two_stages(redis_url, asyncio.Event(), seen).run_task(TASK, state=state, run_id="stages")
        )
        with stored(redis_url) as client:
            await until(lambda: client.hget("gf:run:{stages}:map:describe", "done") == "58")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        again: list[int] = []
        hold = asyncio.Event()
        hold.set()

        outcome = await two_stages(redis_url, hold, again).run_task(TASK, state=state, run_id="stages")

        assert outcome["describe"] == [f"{index}:{2 * index}" for index in range(60) if index != 3]
        assert again == [0]
        assert outcome["count"] == 59

    asyncio.run(main())


def test_pipelined_map_of_each_pass_of_a_loop_goes_through_the_records_of_that_pass(redis_url: str) -> None:
    seen: list[list[int]] = []
    agent = Agent(cache=RedisCache(redis_url))

    @agent.node
    def numbers(task: Task) -> list[int]:
        return list(range(30))

    @agent.node(map_over="numbers")
    async def double(number: int) -> int:
        return number * (2 + len(seen))

    @agent.node(map_over="double", pipelined=True)
    async def keep(doubled: int) -> int:
        return doubled

    @agent.node
    def total(keep: list[int]) -> int:
        seen.append(keep)
        return sum(keep)

    @agent.decide(after="total", to=["numbers", "END"])
    def enough(total: int) -> str:
        return "numbers" if len(seen) < 3 else "END"

    outcome = agent.run_task_sync(TASK)

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert seen == [[number * factor for number in range(30)] for factor in (2, 3, 4)]
    assert outcome.node_results["keep"].visits == 3


def test_pipelined_map_over_anything_but_a_map_is_refused() -> None:
    agent = Agent(cache=RedisCache("memory://"))

    @agent.node(map_over="numbers", pipelined=True)
    async def double(number: int) -> int:
        return number

    with pytest.raises(InvalidGraph, match="pipelined is for a map over the results of another map"):
        agent.run_task_sync(TASK, state={"numbers": [1]})
