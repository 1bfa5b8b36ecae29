"""Maps whose results become one value, in input order, and maps of which so many items have to succeed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from graphflow import Agent, AgentModule, NodeStatus, RunStatus
from graphflow.errors import InvalidGraph
from graphflow.store.held_run import RedisHeldRun
from tests.acceptance.support import agent_on, cancel, client, module_node, task, until
from tests.helpers import run


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


def join(left: str, right: str) -> str:
    return f"{left} {right}"


async def same(item: Any) -> Any:
    return item


# Order


def test_results_are_folded_in_input_order_however_the_items_finish(agent: Agent) -> None:
    finished: list[int] = []

    @agent.node(map_over="items", reduce=join)
    async def work(item: int) -> str:
        await asyncio.sleep((20 - item) / 1_000)
        finished.append(item)
        return str(item)

    outcome = agent.run_task_sync(task(), state={"items": list(range(20))})

    assert finished != sorted(finished)
    assert outcome["work"] == " ".join(map(str, range(20)))


@pytest.mark.parametrize("count", [1_000, 7_000])
def test_many_results_are_folded_from_the_left(agent: Agent, count: int) -> None:
    """More than are kept in memory, and by a function in which the order of everything shows."""

    def fold(left: int, right: int) -> int:
        return (left * 31 + right) % 1_000_003

    def numbers() -> Iterator[int]:
        yield from range(count)

    @agent.node(map_over=numbers, reduce=fold)
    async def work(item: int) -> int:
        # The first is the last to finish: until then nothing can be folded.
        await asyncio.sleep(0.3 if item == 0 else 0)
        return item

    expected = 0
    for number in range(1, count):
        expected = fold(expected, number)

    outcome = agent.run_task_sync(task())

    assert outcome["work"] == expected


def test_each_result_is_folded_once(agent: Agent) -> None:
    calls: list[tuple[int, int]] = []

    def add(left: int, right: int) -> int:
        calls.append((left, right))
        return left + right

    agent.node(name="work", map_over="items", reduce=add)(same)

    outcome = agent.run_task_sync(task(), state={"items": [1, 2, 3, 4]})

    assert outcome["work"] == 10
    assert calls == [(1, 2), (3, 3), (6, 4)]


def test_results_are_folded_when_they_are_stored(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store takes its time: what a commit is about to store is done to the run, and not yet to be read."""
    commit = RedisHeldRun.commit

    async def slow(self: RedisHeldRun, *args: Any, **options: Any) -> Any:
        await asyncio.sleep(0.01)
        return await commit(self, *args, **options)

    monkeypatch.setattr(RedisHeldRun, "commit", slow)

    @agent.node(map_over="items", reduce=lambda left, right: left + right, max_concurrency=100)
    async def work(item: int) -> list[int]:
        for _ in range(item % 3):
            await asyncio.sleep(0)
        return [item]

    outcome = agent.run_task_sync(task(), state={"items": list(range(3_000))})

    assert outcome["work"] == list(range(3_000))


def test_failed_items_are_left_out(agent: Agent) -> None:
    @agent.node(map_over="items", reduce=join, max_retries=1)
    async def work(item: int) -> str:
        if item % 3 == 0:
            raise ValueError("three")
        return str(item)

    outcome = agent.run_task_sync(task(), state={"items": list(range(10))})

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["work"] == "1 2 4 5 7 8"
    assert [each.item for each in outcome.failures] == [0, 3, 6, 9]


def test_filtered_elements_are_left_out(agent: Agent) -> None:
    agent.node(name="work", map_over="items", reduce=join, where="item > 'b'")(same)

    assert agent.run_task_sync(task(), state={"items": list("abcd")})["work"] == "c d"


def test_batches_are_folded_by_item(agent: Agent) -> None:
    @agent.node(map_over="items", batch_size=3, reduce=join)
    async def work(items: list[int]) -> list[str]:
        return [str(item) for item in items]

    assert agent.run_task_sync(task(), state={"items": list(range(7))})["work"] == "0 1 2 3 4 5 6"


@pytest.mark.parametrize("from_generator", [True, False])
def test_no_items_reduce_to_none(agent: Agent, redis_url: str, from_generator: bool) -> None:
    def nothing() -> Iterator[int]:
        yield from ()

    agent.node(name="work", map_over=nothing if from_generator else "items", reduce=join)(same)
    agent.node(name="after")(lambda work: [work])

    outcome = agent.run_task_sync(task(), state={"items": []})

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["work"] is None
    assert outcome["after"] == [None]
    with client(redis_url) as connection:
        assert connection.hget(f"gf:run:{{{outcome.run_id}}}:state", "work") == "null"


def test_elements_that_are_all_filtered_out_reduce_to_none(agent: Agent) -> None:
    def numbers() -> Iterator[int]:
        yield from range(2_500)

    agent.node(name="work", map_over=numbers, where="item < 0", reduce=join)(same)

    outcome = agent.run_task_sync(task())

    assert (outcome.status, outcome["work"]) == (RunStatus.COMPLETE, None)


def test_one_result_is_the_value_as_it_is(agent: Agent) -> None:
    def never(left: Any, right: Any) -> Any:
        raise AssertionError("there is nothing to fold")

    agent.node(name="work", map_over="items", reduce=never)(same)

    assert agent.run_task_sync(task(), state={"items": [{"a": [1]}]})["work"] == {"a": [1]}


def test_items_that_write_state_are_folded_in_their_order(agent: Agent) -> None:
    @agent.node(map_over="items", reduce=join)
    async def work(item: int, cache: Any) -> str:
        await asyncio.sleep((10 - item) / 1_000)
        await cache.append("seen", item)
        return str(item)

    outcome = agent.run_task_sync(task(), state={"items": list(range(10))})

    assert outcome["work"] == "0 1 2 3 4 5 6 7 8 9"
    assert sorted(outcome["seen"]) == list(range(10))


def test_result_is_folded_if_the_generator_ends_after_its_last_item(agent: Agent) -> None:
    async def main() -> None:
        ran = asyncio.Event()

        async def numbers() -> AsyncIterator[int]:
            yield 1
            yield 2
            await ran.wait()
            for _ in range(20):
                await asyncio.sleep(0.005)

        @agent.node(map_over=numbers, reduce=join)
        async def work(item: int) -> int:
            if item == 2:
                ran.set()
            return item

        assert (await agent.run_task(task()))["work"] == "1 2"

    run(main())


# Where the value is


def test_value_is_a_result_like_that_of_any_node(agent: Agent, redis_url: str) -> None:
    agent.node(name="total", map_over="items", reduce=lambda left, right: left + right)(same)
    agent.node(name="high", dependencies=["total"], condition="nodes.total > 5 and total == 6")(
        lambda: "high"
    )
    agent.node(name="low", dependencies=["total"], condition="nodes.total < 5")(lambda: "low")

    @agent.node
    async def after(total: int, cache: Any) -> list[Any]:
        each = [list(pair) async for pair in cache.results("total")]
        return [total, await cache.get("total"), each]

    outcome = agent.run_task_sync(task(), state={"items": [1, 2, 3]})

    assert outcome["total"] == 6
    assert outcome.node_results["total"].result == 6
    assert outcome["high"] == "high"
    assert outcome.node_results["low"].status is NodeStatus.SKIPPED
    assert outcome["after"] == [6, 6, [[0, 1], [1, 2], [2, 3]]]
    with client(redis_url) as connection:
        assert connection.hget(f"gf:run:{{{outcome.run_id}}}:state", "total") == "6"
        assert connection.hvals(f"gf:run:{{{outcome.run_id}}}:map:total:out") == ["1", "2", "3"]


def test_value_is_the_result_of_an_end_node(agent: Agent) -> None:
    agent.node(name="total", map_over="items", reduce=lambda left, right: left + right)(same)

    assert agent.run_task_sync(task(), state={"items": [1, 2, 3]}).result == 6


def test_value_may_be_the_source_of_another_map(agent: Agent) -> None:
    agent.node(name="every", map_over="items", reduce=lambda left, right: left + right)(same)
    agent.node(name="double", map_over="every")(lambda item: 2 * item)

    outcome = agent.run_task_sync(task(), state={"items": [[1, 2], [3]]})

    assert outcome["double"] == [2, 4, 6]


def test_value_of_a_module_class(agent: Agent) -> None:
    class Word(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            return {"status": "success", "result": cache.item}

    agent.add_node(module_node("text", Word(), map_over="items", reduce=join))

    assert agent.run_task_sync(task(), state={"items": ["a", "b"]})["text"] == "a b"


def test_each_visit_has_a_value_of_its_own(agent: Agent) -> None:
    @agent.node
    async def numbers(cache: Any) -> list[int]:
        size = await cache.get("size", 5)
        await cache.set("size", size - 3)
        return list(range(size))

    agent.node(name="total", map_over="numbers", reduce=lambda left, right: left + right)(same)

    @agent.decide(after="total", to="numbers")
    def again(total: int) -> str | None:
        return "numbers" if total == 10 else None

    outcome = agent.run_task_sync(task())

    assert outcome["total"] == 1
    assert outcome.node_results["total"].visits == 2


# What fails


@pytest.mark.parametrize("from_generator", [True, False])
def test_function_that_raises_fails_the_node(agent: Agent, from_generator: bool) -> None:
    def add(left: int, right: int) -> int:
        if right == 3:
            raise ArithmeticError("three is too many")
        return left + right

    def numbers() -> Iterator[int]:
        yield from range(5)

    agent.node(name="total", map_over=numbers if from_generator else "items", reduce=add)(same)
    agent.node(name="after")(lambda total: total)

    outcome = agent.run_task_sync(task(), state={"items": list(range(5))})

    assert outcome.status is RunStatus.FAILED
    assert [(each.node, each.item, each.error) for each in outcome.failures] == [
        ("total", None, "ArithmeticError: three is too many")
    ]
    assert "three is too many" in (outcome.error or "")
    assert outcome.node_results["after"].status is NodeStatus.PENDING
    assert "total" not in outcome


@pytest.mark.parametrize("from_generator", [True, False])
def test_function_that_raises_cancels_what_still_runs(agent: Agent, from_generator: bool) -> None:
    async def main() -> None:
        cancelled: list[int] = []

        async def numbers() -> AsyncIterator[int]:
            for number in range(5):
                yield number
            await asyncio.Event().wait()

        def fold(left: int, right: int) -> int:
            raise ArithmeticError("no")

        @agent.node(map_over=numbers if from_generator else "items", reduce=fold)
        async def total(item: int) -> int:
            if item < 3:
                return item
            try:
                await asyncio.sleep(0.2 if item == 3 else 30)
            except asyncio.CancelledError:
                cancelled.append(item)
                raise
            return item

        async with asyncio.timeout(10):
            outcome = await agent.run_task(task(), state={"items": list(range(5))})

        assert outcome.status is RunStatus.FAILED
        assert "ArithmeticError: no" in (outcome.error or "")
        assert 4 in cancelled

    run(main())


def test_function_that_raises_while_no_item_ends_fails_the_node_at_once(agent: Agent) -> None:
    async def main() -> None:
        def fold(left: int, right: int) -> int:
            raise ArithmeticError("no")

        @agent.node(map_over="items", reduce=fold)
        async def total(item: int) -> int:
            await asyncio.sleep(30 if item == 2 else 0)
            return item

        async with asyncio.timeout(5):
            outcome = await agent.run_task(task(), state={"items": list(range(3))})

        assert outcome.status is RunStatus.FAILED

    run(main())


@pytest.mark.parametrize("count", [2, 3_000])
def test_value_that_cannot_be_stored_fails_the_node_and_is_named(agent: Agent, count: int) -> None:
    agent.node(name="total", map_over="items", reduce=lambda left, right: object())(same)

    outcome = agent.run_task_sync(task(), state={"items": list(range(count))})

    assert outcome.status is RunStatus.FAILED
    assert "UnstorableValue" in (outcome.error or "")
    assert "total" in (outcome.error or "")


def test_map_whose_items_all_fail_has_no_value(agent: Agent) -> None:
    @agent.node(map_over="items", reduce=join, max_retries=1)
    async def work(item: int) -> int:
        raise ValueError(f"item {item}")

    outcome = agent.run_task_sync(task(), state={"items": [1, 2]})

    assert outcome.status is RunStatus.FAILED
    assert "all 2 items failed" in (outcome.error or "")
    assert "work" not in outcome


async def _async_fold(left: int, right: int) -> int:
    return left + right


def test_async_function_is_refused(agent: Agent) -> None:
    agent.node(name="work", map_over="items", reduce=_async_fold)(same)

    with pytest.raises(InvalidGraph, match="reduce is async, but it is called without await"):
        agent.run_task_sync(task(), state={"items": [1]})


def test_reduce_without_a_map_is_refused(agent: Agent) -> None:
    agent.node(name="work", reduce=join)(lambda: 1)

    with pytest.raises(InvalidGraph, match="reduce is for the items of a map, but map_over is not set"):
        agent.run_task_sync(task())


# Going on


def test_resumed_run_folds_each_result_once(agent: Agent) -> None:
    calls: Counter[int] = Counter()

    async def main() -> None:
        go_on = asyncio.Event()
        folded: list[int] = []

        def add(left: list[int], right: list[int]) -> list[int]:
            folded.append(right[0])
            return left + right

        async def numbers(start: int) -> AsyncIterator[int]:
            for number in range(start, 300):
                yield number

        @agent.node(map_over=numbers, reduce=add, max_concurrency=10)
        async def work(item: int) -> list[int]:
            calls[item] += 1
            if item == 150:
                await go_on.wait()
            return [item]

        running = asyncio.create_task(agent.run_task(task(), run_id="reduced-twice"))
        await until(lambda: len(calls) == 300 and len(folded) >= 149)
        assert folded == list(range(1, 150))
        await cancel(running)
        folded.clear()
        go_on.set()
        outcome = await agent.resume("reduced-twice")

        assert outcome["work"] == list(range(300))
        assert folded == list(range(1, 300)), (
            "what was folded and not stored is folded anew, each result once"
        )
        assert max(calls.values()) <= 2

    run(main())


def test_failed_items_that_are_tried_again_come_to_their_places(agent: Agent) -> None:
    is_broken = True

    @agent.node(map_over="items", reduce=join, max_retries=1)
    async def work(item: int) -> str:
        if is_broken and item in (0, 3):
            raise ValueError("broken")
        return str(item)

    async def main() -> None:
        nonlocal is_broken
        first = await agent.run_task(task(), state={"items": list(range(5))})
        assert (first.status, first["work"]) == (RunStatus.PARTIAL, "1 2 4")
        is_broken = False
        second = await agent.fork(first.run_id)
        assert (second.status, second["work"]) == (RunStatus.COMPLETE, "0 1 2 3 4")

    run(main())


@pytest.mark.parametrize("from_generator", [True, False])
@pytest.mark.parametrize("count", [4, 1_500])
def test_run_whose_function_raised_is_tried_again_from_its_results(
    agent: Agent, from_generator: bool, count: int
) -> None:
    is_broken = True
    calls: Counter[int] = Counter()

    def add(left: int, right: int) -> int:
        if is_broken and right == count - 1:
            raise ArithmeticError("broken")
        return left + right

    def numbers() -> Iterator[int]:
        yield from range(count)

    @agent.node(map_over=numbers if from_generator else "items", reduce=add)
    async def total(item: int) -> int:
        calls[item] += 1
        return item

    async def main() -> None:
        nonlocal is_broken
        first = await agent.run_task(task(), state={"items": list(range(count))})
        assert first.status is RunStatus.FAILED
        is_broken = False
        async with asyncio.timeout(10):
            second = await agent.fork(first.run_id)
        assert (second.status, second["total"]) == (RunStatus.COMPLETE, sum(range(count)))

    run(main())
    assert set(calls.values()) == {1}, "their results are there"


# So many have to succeed


@pytest.mark.parametrize(
    ("least", "failing", "status"),
    [
        (1, 9, RunStatus.PARTIAL),
        (1, 10, RunStatus.FAILED),
        (7, 3, RunStatus.PARTIAL),
        (7, 4, RunStatus.FAILED),
        (10, 0, RunStatus.COMPLETE),
        (10, 1, RunStatus.FAILED),
        (11, 0, RunStatus.FAILED),
        (0.7, 3, RunStatus.PARTIAL),
        (0.7, 4, RunStatus.FAILED),
        (0.65, 3, RunStatus.PARTIAL),
        (0.65, 4, RunStatus.FAILED),
        (0.0, 10, RunStatus.PARTIAL),
        (0, 10, RunStatus.PARTIAL),
    ],
)
@pytest.mark.parametrize("from_generator", [True, False])
def test_node_succeeds_if_enough_items_do(
    agent: Agent, from_generator: bool, least: float, failing: int, status: RunStatus
) -> None:
    def numbers() -> Iterator[int]:
        yield from range(10)

    @agent.node(
        map_over=numbers if from_generator else "items", min_success=least, max_retries=1, max_concurrency=2
    )
    async def work(item: int) -> int:
        if item < failing:
            raise ValueError(f"item {item}")
        return item

    outcome = agent.run_task_sync(task(), state={"items": list(range(10))})

    assert outcome.status is status
    if status is RunStatus.FAILED:
        there = "of 10 items failed" if failing else "there are 10 items in all"
        assert f"{there}, but min_success={least:g}" in (outcome.node_results["work"].error or "")
    else:
        assert outcome["work"] == list(range(failing, 10))
        assert [each.item for each in outcome.failures] == list(range(failing))


@pytest.mark.parametrize("least", [None, 1, 0.5])
def test_empty_map_has_enough_or_too_few(agent: Agent, least: float | None) -> None:
    """Of no items every share succeeds, and as many as must without a number; one that is asked for does not."""
    agent.node(name="work", map_over="items", min_success=least)(same)

    outcome = agent.run_task_sync(task(), state={"items": []})

    assert outcome.status is (RunStatus.FAILED if least == 1 else RunStatus.COMPLETE)
    if least == 1:
        error = outcome.node_results["work"].error
        assert error == "TooFewSucceeded: there are 0 items in all, but min_success=1"


def test_node_fails_as_soon_as_enough_cannot_succeed_any_more(agent: Agent) -> None:
    async def main() -> None:
        cancelled: list[int] = []

        @agent.node(map_over="items", min_success=0.8, max_retries=1)
        async def work(item: int) -> int:
            if item < 3:
                raise ValueError(f"item {item}")
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.append(item)
                raise
            return item

        async with asyncio.timeout(10):
            outcome = await agent.run_task(task(), state={"items": list(range(10))})

        assert outcome.status is RunStatus.FAILED
        assert sorted(cancelled) == list(range(3, 10))
        assert "3 of 10 items failed, but min_success=0.8; the last one, item " in (
            outcome.node_results["work"].error or ""
        )

    run(main())


def test_too_few_of_a_generator_are_known_at_its_end(agent: Agent) -> None:
    async def main() -> None:
        failed = asyncio.Event()
        cancelled: list[int] = []

        async def numbers() -> AsyncIterator[int]:
            for number in range(4):
                yield number
            await failed.wait()
            await asyncio.sleep(0.05)

        @agent.node(map_over=numbers, min_success=3, max_retries=1)
        async def work(item: int) -> int:
            if item < 2:
                if item == 1:
                    failed.set()
                raise ValueError(f"item {item}")
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.append(item)
                raise
            return item

        async with asyncio.timeout(10):
            outcome = await agent.run_task(task())

        assert outcome.status is RunStatus.FAILED
        assert sorted(cancelled) == [2, 3]
        assert "2 of 4 items failed, but min_success=3" in (outcome.node_results["work"].error or "")

    run(main())


def test_node_that_has_enough_reduces_them(agent: Agent) -> None:
    @agent.node(map_over="items", min_success=2, reduce=join, max_retries=1)
    async def work(item: int) -> int:
        if item == 1:
            raise ValueError("one")
        return item

    outcome = agent.run_task_sync(task(), state={"items": [0, 1, 2]})

    assert (outcome.status, outcome["work"]) == (RunStatus.PARTIAL, "0 2")


def test_run_with_too_few_is_tried_again(agent: Agent) -> None:
    is_broken = True
    calls: Counter[int] = Counter()

    @agent.node(map_over="items", min_success=3, max_retries=1, reduce=join)
    async def work(item: int) -> int:
        calls[item] += 1
        if is_broken and item == 3:
            await until(lambda: calls.total() == 3)
            raise ValueError("three")
        return item

    async def main() -> None:
        nonlocal is_broken
        first = await agent.run_task(task(), state={"items": [1, 2, 3]})
        assert first.status is RunStatus.FAILED
        is_broken = False
        second = await agent.fork(first.run_id)
        assert (second.status, second["work"]) == (RunStatus.COMPLETE, "1 2 3")

    run(main())
    assert calls[3] == 2


def test_run_that_had_too_few_items_has_them_still_when_it_is_tried_again(agent: Agent) -> None:
    agent.node(name="work", map_over="items", min_success=3)(same)

    async def main() -> None:
        first = await agent.run_task(task(), state={"items": [1, 2]})
        async with asyncio.timeout(10):
            second = await agent.fork(first.run_id)
        assert (first.status, second.status) == (RunStatus.FAILED, RunStatus.FAILED)

    run(main())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_success": 2}, "min_success is for the items of a map, but map_over is not set"),
        (
            {"map_over": "items", "min_success": 2, "on_item_error": "fail"},
            "min_success counts items that may fail, but on_item_error='fail' lets none",
        ),
        ({"map_over": "items", "min_success": 2.5}, "min_success is 2.5 (float); give a whole number"),
        ({"map_over": "items", "min_success": 1.0}, "min_success is 1.0 (float); give a whole number"),
    ],
)
def test_what_cannot_be_meant_is_refused(agent: Agent, options: dict[str, Any], words: str) -> None:
    agent.node(name="work", **options)(lambda item=None: item)

    with pytest.raises(InvalidGraph) as refused:
        agent.run_task_sync(task(), state={"items": [1]})

    assert words in str(refused.value)
