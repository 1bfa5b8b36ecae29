"""Maps whose module gets several items at a time and returns one result for each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from graphflow import Agent, AgentModule, NonRetryableException, RunStatus
from graphflow.errors import InvalidGraph
from tests.acceptance.support import agent_on, client, module_node, task, within
from tests.helpers import SOON_SECONDS, run


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(
    ("count", "sizes"), [(0, []), (1, [1]), (3, [3]), (4, [3, 1]), (9, [3, 3, 3]), (11, [3, 3, 3, 2])]
)
def test_batches_are_whole_but_for_the_last(
    agent: Agent, is_async: bool, count: int, sizes: list[int]
) -> None:
    seen: list[list[int]] = []

    def doubled(items: list[int]) -> list[int]:
        seen.append(items)
        return [2 * item for item in items]

    async def asynchronously(items: list[int]) -> list[int]:
        return doubled(items)

    agent.node(name="double", map_over="items", batch_size=3)(asynchronously if is_async else doubled)

    outcome = agent.run_task_sync(task(), state={"items": list(range(count))})

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["double"] == [2 * number for number in range(count)]
    assert sorted(map(len, seen), reverse=True) == sizes
    assert sorted(item for batch in seen for item in batch) == list(range(count))


def test_index_is_the_list_of_the_places(agent: Agent) -> None:
    @agent.node(map_over="items", batch_size=2, where="item != 'b'")
    async def place(items: list[str], index: list[int]) -> list[str]:
        return [f"{number}{item}" for number, item in zip(index, items, strict=True)]

    assert agent.run_task_sync(task(), state={"items": list("abcd")})["place"] == ["0a", "2c", "3d"]


def test_module_class_has_lists_in_its_cache(agent: Agent) -> None:
    class Places(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            assert len(cache.item) == len(cache.index)
            return [[index, item] for index, item in zip(cache.index, cache.item, strict=True)]

    agent.add_node(module_node("places", Places(), map_over="items", batch_size=2))

    assert agent.run_task_sync(task(), state={"items": list("abc")})["places"] == [
        [0, "a"],
        [1, "b"],
        [2, "c"],
    ]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([1, 2], "returned 2 results for a batch of 3 items"),
        ([1, 2, 3, 4], "returned 4 results for a batch of 3 items"),
        ({"a": 1}, "returned dict for a batch of 3 items"),
        ("abc", "returned str for a batch of 3 items"),
        (None, "returned NoneType for a batch of 3 items"),
    ],
)
def test_batch_without_a_result_for_each_item_fails_and_names_the_counts(
    agent: Agent, returned: Any, words: str
) -> None:
    calls: list[int] = []

    @agent.node(map_over="items", batch_size=3, max_retries=3)
    async def work(items: list[int]) -> Any:
        calls.append(items[0])
        return returned if items[0] == 3 else items

    outcome = agent.run_task_sync(task(), state={"items": list(range(9))})

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["work"] == [0, 1, 2, 6, 7, 8]
    assert [each.item for each in outcome.failures] == [3, 4, 5]
    assert all(words in each.error for each in outcome.failures)
    assert sorted(calls) == [0, 3, 6], "another attempt would return the same"


def test_unstorable_result_fails_its_batch(agent: Agent) -> None:
    @agent.node(map_over="items", batch_size=2, max_retries=1)
    async def work(items: list[int]) -> list[Any]:
        return [object() if item == 1 else item for item in items]

    outcome = agent.run_task_sync(task(), state={"items": [0, 1, 2]})

    assert outcome["work"] == [2]
    assert [each.item for each in outcome.failures] == [0, 1]
    assert "UnstorableValue" in outcome.failures[0].error


def test_failed_batch_is_tried_again_as_it_was(agent: Agent) -> None:
    seen: list[tuple[int, ...]] = []

    @agent.node(map_over="items", batch_size=2, max_retries=3)
    async def work(items: list[int]) -> list[int]:
        seen.append(tuple(items))
        if items[0] == 2 and seen.count((2, 3)) < 3:
            raise ConnectionError("no answer")
        return items

    outcome = agent.run_task_sync(task(), state={"items": list(range(5))})

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["work"] == list(range(5))
    assert Counter(seen) == {(0, 1): 1, (2, 3): 3, (4,): 1}


def test_batch_that_fails_for_good_lists_each_of_its_items(agent: Agent, redis_url: str) -> None:
    @agent.node(map_over="items", batch_size=2, max_retries=2)
    async def work(items: list[int]) -> list[int]:
        if items[0] == 2:
            raise ValueError("no such page")
        return items

    outcome = agent.run_task_sync(task(), state={"items": list(range(5))})

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["work"] == [0, 1, 4]
    assert [(each.item, each.error, each.attempts) for each in outcome.failures] == [
        (2, "ValueError: no such page", 2),
        (3, "ValueError: no such page", 2),
    ]
    with client(redis_url) as connection:
        progress = connection.hgetall(f"gf:run:{{{outcome.run_id}}}:map:work")
    assert (progress["total"], progress["done"], progress["failed"]) == ("5", "3", "2")


def test_batch_that_says_so_is_not_tried_again(agent: Agent) -> None:
    calls: list[int] = []

    @agent.node(map_over="items", batch_size=2, max_retries=5)
    async def work(items: list[int]) -> list[int]:
        calls.append(items[0])
        if items[0] == 0:
            raise NonRetryableException("never")
        return items

    outcome = agent.run_task_sync(task(), state={"items": [0, 1, 2]})

    assert sorted(calls) == [0, 2]
    assert [each.item for each in outcome.failures] == [0, 1]


def test_batch_over_its_timeout_is_tried_again(agent: Agent) -> None:
    calls: list[int] = []

    class Sleeps(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            calls.append(cache.index[0])
            await asyncio.sleep(30 if calls.count(2) == 1 and cache.index == [2, 3] else 0)
            return cache.item

    agent.add_node(
        module_node("work", Sleeps(config=within(0.1)), map_over="items", batch_size=2, max_retries=2)
    )

    outcome = agent.run_task_sync(task(), state={"items": list(range(4))})

    assert outcome["work"] == list(range(4))
    assert sorted(calls) == [0, 2, 2]


def test_reported_failure_of_a_module_class_fails_its_batch(agent: Agent) -> None:
    """asimov's contract: a dict with a status that is no success."""

    class Reports(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            if cache.index[0] == 0:
                return {"status": "error", "error": "no such page"}
            return {"status": "success", "result": cache.item}

    agent.add_node(module_node("work", Reports(), map_over="items", batch_size=2, max_retries=1))

    outcome = agent.run_task_sync(task(), state={"items": list(range(4))})

    assert outcome["work"] == [2, 3]
    assert [(each.item, each.error) for each in outcome.failures] == [
        (0, "ModuleFailed: no such page"),
        (1, "ModuleFailed: no such page"),
    ]


def test_concurrency_counts_batches(agent: Agent) -> None:
    running, most = 0, 0

    @agent.node(map_over="items", batch_size=5, max_concurrency=3)
    async def work(items: list[int]) -> list[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return items

    outcome = agent.run_task_sync(task(), state={"items": list(range(100))})

    assert outcome["work"] == list(range(100))
    assert most == 3


def test_batches_that_write_state_lose_nothing(agent: Agent) -> None:
    calls: Counter[int] = Counter()

    @agent.node(map_over="items", batch_size=4)
    async def work(items: list[int], cache: Any) -> list[int]:
        calls[items[0]] += 1
        await cache.increment("sum", sum(items))
        for item in items:
            await cache.append("seen", item)
        return items

    outcome = agent.run_task_sync(task(), state={"items": list(range(50))})

    assert outcome["work"] == list(range(50))
    assert outcome["sum"] == sum(range(50))
    assert sorted(outcome["seen"]) == list(range(50))
    assert set(calls.values()) == {1}


def test_batches_that_read_and_write_one_key_lose_nothing(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=4)

    @agent.node(map_over="items", batch_size=3)
    async def work(items: list[int], cache: Any) -> list[int]:
        total = await cache.get("total", 0)
        await asyncio.sleep(0)
        await cache.set("total", total + len(items))
        return items

    outcome = agent.run_task_sync(task(), state={"items": list(range(31))})

    assert outcome["total"] == 31
    assert outcome["work"] == list(range(31))


def test_first_failed_batch_fails_the_node_if_asked_for(agent: Agent) -> None:
    @agent.node(map_over="items", batch_size=2, on_item_error="fail", max_retries=1)
    async def work(items: list[int]) -> list[int]:
        if items[0] == 2:
            raise ValueError("the second")
        await asyncio.sleep(30)
        return items

    outcome = agent.run_task_sync(task(), state={"items": list(range(8))})

    assert outcome.status is RunStatus.FAILED
    assert "item 2: the second" in (outcome.node_results["work"].error or "")
    assert outcome.seconds < SOON_SECONDS


@pytest.mark.parametrize("is_async", [True, False])
def test_batches_of_a_generator_are_whole_but_for_the_last(agent: Agent, is_async: bool) -> None:
    sizes: Counter[int] = Counter()

    async def asynchronous() -> AsyncIterator[int]:
        for number in range(1_003):
            if number % 7 == 0:
                await asyncio.sleep(0)
            yield number

    def in_threads() -> Iterator[int]:
        yield from range(1_003)

    @agent.node(map_over=asynchronous if is_async else in_threads, batch_size=10)
    async def work(items: list[int]) -> list[int]:
        sizes[len(items)] += 1
        return items

    outcome = agent.run_task_sync(task())

    assert outcome["work"] == list(range(1_003))
    assert sizes == {10: 100, 3: 1}


def test_generator_that_ends_after_a_wait_lets_its_last_batch_go(agent: Agent) -> None:
    async def main() -> None:
        ran = asyncio.Event()
        seen: list[list[int]] = []

        async def numbers() -> AsyncIterator[int]:
            for number in range(5):
                yield number
            await ran.wait()

        @agent.node(map_over=numbers, batch_size=4)
        async def work(items: list[int]) -> list[int]:
            seen.append(items)
            ran.set()
            return items

        async with asyncio.timeout(10):
            outcome = await agent.run_task(task())
        assert outcome["work"] == list(range(5))
        assert seen == [[0, 1, 2, 3], [4]]

    run(main())


def test_batch_larger_than_all_that_a_generator_yields(agent: Agent) -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)

    @agent.node(map_over=numbers, batch_size=1_000)
    async def work(items: list[int]) -> list[int]:
        return [len(items)] * len(items)

    assert agent.run_task_sync(task())["work"] == [3, 3, 3]


def test_batch_larger_than_the_window_of_a_generator(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=2)
    sizes: list[int] = []

    def numbers() -> Iterator[int]:
        yield from range(10_000)

    @agent.node(map_over=numbers, batch_size=4_500)
    async def work(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return items

    async def main() -> None:
        async with asyncio.timeout(20):
            outcome = await agent.run_task(task())
        assert outcome["work"] == list(range(10_000))

    run(main())
    assert sorted(sizes) == [1_000, 4_500, 4_500]


def test_batch_larger_than_the_queue_of_a_list(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=2)
    sizes: list[int] = []

    @agent.node(map_over="items", batch_size=4_500)
    async def work(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return items

    async def main() -> None:
        async with asyncio.timeout(20):
            outcome = await agent.run_task(task(), state={"items": list(range(10_000))})
        assert outcome["work"] == list(range(10_000))

    run(main())
    assert sorted(sizes) == [1_000, 4_500, 4_500]


def test_batch_of_items_larger_together_than_the_queue(redis_url: str) -> None:
    """Each item has a megabyte: four of them fill what waits in memory."""
    agent = agent_on(redis_url)
    text = "x" * 1_000_000
    sizes: list[int] = []

    def pages() -> Iterator[str]:
        for number in range(7):
            yield f"{number}{text}"

    @agent.node(map_over=pages, batch_size=6)
    async def work(items: list[str]) -> list[str]:
        sizes.append(len(items))
        return [item[0] for item in items]

    async def main() -> None:
        async with asyncio.timeout(20):
            outcome = await agent.run_task(task())
        assert outcome["work"] == list("0123456")

    run(main())
    assert sorted(sizes) == [1, 6]


@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_that_is_none_is_refused(agent: Agent, size: int) -> None:
    agent.node(name="work", map_over="items", batch_size=size)(lambda items: items)

    with pytest.raises(InvalidGraph, match=f"batch_size is {size}"):
        agent.compile(["items"])


def test_batch_size_without_a_map_is_refused(agent: Agent) -> None:
    agent.node(name="work", batch_size=3)(lambda: 1)

    with pytest.raises(InvalidGraph, match="batch_size is for the items of a map, but map_over is not set"):
        agent.run_task_sync(task())
