"""Maps over what a generator yields: items start while it goes on, and each element becomes one item, whatever fails."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from graphflow import (
    END,
    Agent,
    AgentModule,
    NodeStatus,
    NonRetryableException,
    RunInterrupted,
    RunResult,
    RunStatus,
)
from graphflow.engine.maps import feed
from graphflow.errors import InvalidGraph
from tests.acceptance.support import agent_on, cancel, client, module_node, task, until
from tests.helpers import SOON_SECONDS, run


@pytest.fixture
def agent(redis_url: str) -> Agent:
    # A request to cancel is seen within a third of the lease.
    return agent_on(redis_url, lease_seconds=1)


async def same(item: Any) -> Any:
    return item


# What it yields


@pytest.mark.parametrize("count", [0, 1, feed.TURN_ITEMS, 5_000])
@pytest.mark.parametrize("seeks", [True, False])
@pytest.mark.parametrize("is_async", [True, False])
def test_each_element_is_one_item_in_its_order(
    agent: Agent, redis_url: str, is_async: bool, seeks: bool, count: int
) -> None:
    async def asynchronous() -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def asynchronous_from(start: int) -> AsyncIterator[int]:
        for number in range(start, count):
            yield number

    def in_threads() -> Iterator[int]:
        yield from range(count)

    def in_threads_from(start: int) -> Iterator[int]:
        yield from range(start, count)

    by_kind = {
        (True, True): asynchronous_from,
        (True, False): asynchronous,
        (False, True): in_threads_from,
        (False, False): in_threads,
    }
    agent.node(name="work", map_over=by_kind[is_async, seeks])(same)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["work"] == list(range(count))
    with client(redis_url) as connection:
        progress = connection.hgetall(f"gf:run:{{{outcome.run_id}}}:map:work")
    assert progress["total"] == progress["done"] == progress["span"] == str(count)
    assert "source" not in progress, "nothing more will come"


def test_items_start_before_the_generator_has_ended(agent: Agent) -> None:
    async def main() -> None:
        first_ran = asyncio.Event()

        async def numbers() -> AsyncIterator[int]:
            yield 0
            await first_ran.wait()
            yield 1

        @agent.node(map_over=numbers)
        async def work(item: int) -> int:
            first_ran.set()
            return item

        async with asyncio.timeout(10):
            outcome = await agent.run_task(task())
        assert outcome["work"] == [0, 1]

    run(main())


def test_where_expression_filters_elements_by_value_and_place(agent: Agent) -> None:
    def words() -> Iterator[str]:
        yield from ["a", "bb", "ccc", "d", "ee"]

    @agent.node(map_over=words, where="len(item) >= least and index > 1")
    async def work(word: str, index: int) -> str:
        return f"{index}:{word}"

    assert agent.run_task_sync(task(), state={"least": 2})["work"] == ["2:ccc", "4:ee"]


def test_where_function_filters_elements(agent: Agent, redis_url: str) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3_000):
            yield number

    agent.node(name="work", map_over=numbers, where=lambda item: item % 1_000 == 999)(same)

    outcome = agent.run_task_sync(task())

    assert outcome["work"] == [999, 1_999, 2_999]
    with client(redis_url) as connection:
        assert connection.hkeys(f"gf:run:{{{outcome.run_id}}}:map:work:in") == ["999", "1999", "2999"]


def test_map_of_which_where_lets_nothing_pass_has_no_results(agent: Agent) -> None:
    def numbers() -> Iterator[int]:
        yield from range(2_500)

    agent.node(name="work", map_over=numbers, where="item < 0")(same)

    outcome = agent.run_task_sync(task())

    assert (outcome.status, outcome["work"]) == (RunStatus.COMPLETE, [])


def test_module_class_gets_elements_from_its_cache(agent: Agent) -> None:
    def words() -> Iterator[str]:
        yield from "ab"

    class Upper(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            return {"status": "success", "result": f"{cache.index}{cache.item.upper()}"}

    agent.add_node(module_node("upper", Upper(), map_over=words))

    assert agent.run_task_sync(task())["upper"] == ["0A", "1B"]


def test_results_are_read_by_expressions_and_dependents(agent: Agent) -> None:
    def numbers() -> Iterator[int]:
        yield from range(4)

    agent.node(name="work", map_over=numbers)(same)
    agent.node(name="high", dependencies=["work"], condition="sum(work) == 6")(lambda: "high")
    agent.node(name="total")(lambda work: sum(work))

    outcome = agent.run_task_sync(task())

    assert outcome["high"] == "high"
    assert outcome["total"] == 6


def test_results_are_read_by_an_expression_if_the_generator_ends_after_its_last_item(agent: Agent) -> None:
    async def main() -> None:
        ran = asyncio.Event()

        async def numbers() -> AsyncIterator[int]:
            yield 3
            await ran.wait()
            for _ in range(20):
                await asyncio.sleep(0.005)

        @agent.node(map_over=numbers)
        async def work(item: int) -> int:
            ran.set()
            return item

        agent.node(name="high", dependencies=["work"], condition="sum(work) == 3")(lambda: "high")
        assert (await agent.run_task(task()))["high"] == "high"

    run(main())


def test_one_slot_is_enough(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=1)

    async def numbers() -> AsyncIterator[int]:
        for number in range(10):
            await asyncio.sleep(0)
            yield number

    def letters() -> Iterator[str]:
        yield from "abc"

    agent.node(name="numbered", map_over=numbers)(same)
    agent.node(name="lettered", map_over=letters)(lambda item: item)

    outcome = agent.run_task_sync(task())

    assert outcome["numbered"] == list(range(10))
    assert outcome["lettered"] == list("abc")


# What fills its parameters


def test_parameters_are_filled_from_task_state_and_nodes(agent: Agent) -> None:
    ended: list[str] = []

    @agent.node(outputs=["prefix"])
    async def settings(cache: Any) -> int:
        await asyncio.sleep(0.05)
        await cache.set("prefix", "p")
        ended.append("settings")
        return 2

    async def pages(
        task: Any, settings: int, prefix: str, given: str, later: Any = 5, own: int = 7
    ) -> AsyncIterator[str]:
        assert ended == ["settings"], "it depends on the node whose result it reads"
        for number in range(settings):
            yield f"{task.params['site']}{prefix}{given}{later}{own}{number}"

    agent.node(name="work", map_over=pages)(same)

    assert agent.run_task_sync(task(site="x"), state={"given": "g"})["work"] == ["xpg570", "xpg571"]


def test_parameter_may_be_the_results_of_another_map(agent: Agent) -> None:
    agent.node(name="double", map_over="items")(lambda item: 2 * item)

    def pairs(double: list[int]) -> Iterator[list[int]]:
        for left in double:
            for right in double:
                yield [left, right]

    agent.node(name="product", map_over=pairs)(lambda pair: pair[0] * pair[1])

    assert agent.run_task_sync(task(), state={"items": [1, 2]})["product"] == [4, 8, 8, 16]


def test_listed_input_is_read_when_the_generator_begins(agent: Agent) -> None:
    class Sets(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            await cache.set("many", 3)

    agent.add_node(module_node("sets", Sets()))

    def numbers(many: int) -> Iterator[int]:
        yield from range(many)

    agent.node(name="work", dependencies=["sets"], inputs=["many"], map_over=numbers)(same)

    assert agent.run_task_sync(task())["work"] == [0, 1, 2]


def _numbers_of(nothing_sets_it: int) -> Iterator[int]:
    yield nothing_sets_it


async def _asks_for_cache(cache: Any) -> AsyncIterator[int]:
    yield 1


def _asks_for_index(index: int) -> Iterator[int]:
    yield index


def _asks_for_semaphore(semaphore: Any) -> Iterator[int]:
    yield 1


def _returns() -> list[int]:
    return [1]


async def _returns_async() -> list[int]:
    return [1]


def _takes_all(**options: Any) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_numbers_of, "nothing fills parameter 'nothing_sets_it' of function '_numbers_of'"),
        (
            _asks_for_cache,
            "map_over: function '_asks_for_cache' asks for 'cache', which is there for module runs only",
        ),
        (
            _asks_for_index,
            "map_over: function '_asks_for_index' asks for 'index', which is there for module runs only",
        ),
        (
            _asks_for_semaphore,
            "map_over: function '_asks_for_semaphore' asks for 'semaphore', which is there for module runs only",
        ),
        (
            _returns,
            "map_over: function '_returns' does not yield; make it a generator that yields the items",
        ),
        (_returns_async, "map_over: function '_returns_async' does not yield"),
        (_takes_all, "map_over: function '_takes_all' takes **options"),
    ],
)
def test_function_that_cannot_be_a_source_is_refused_before_the_run(
    agent: Agent, function: Any, words: str
) -> None:
    agent.node(name="work", map_over=function)(same)

    with pytest.raises(InvalidGraph) as refused:
        agent.run_task_sync(task())

    assert words in str(refused.value)
    assert "'work'" in str(refused.value)


# What fails


def test_generator_that_raises_at_once_is_tried_again(agent: Agent) -> None:
    starts: list[int] = []

    async def numbers(start: int) -> AsyncIterator[int]:
        starts.append(start)
        if len(starts) < 3:
            raise ConnectionError("no answer")
        for number in range(start, 3):
            yield number

    agent.node(name="work", map_over=numbers, max_retries=3)(same)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["work"] == [0, 1, 2]
    assert starts == [0, 0, 0]


@pytest.mark.parametrize("seeks", [True, False])
@pytest.mark.parametrize("is_async", [True, False])
def test_generator_that_raises_later_goes_on_where_it_was(agent: Agent, is_async: bool, seeks: bool) -> None:
    starts: list[int] = []
    calls: Counter[int] = Counter()

    def elements(start: int) -> Iterator[int]:
        starts.append(start)
        for number in range(start, 250):
            if number == 100 * len(starts) and len(starts) < 3:
                raise ConnectionError("cut off")
            yield number

    async def asynchronous(start: int) -> AsyncIterator[int]:
        for number in elements(start):
            yield number

    async def asynchronous_anew() -> AsyncIterator[int]:
        for number in elements(0):
            yield number

    def in_threads_anew() -> Iterator[int]:
        yield from elements(0)

    by_kind = {
        (True, True): asynchronous,
        (True, False): asynchronous_anew,
        (False, True): elements,
        (False, False): in_threads_anew,
    }

    @agent.node(map_over=by_kind[is_async, seeks], max_retries=3)
    async def work(item: int) -> int:
        calls[item] += 1
        return item

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["work"] == list(range(250))
    assert set(calls.values()) == {1}, "what was there before the failure ran once"
    assert starts == ([0, 99, 199] if seeks else [0, 0, 0])


def test_generator_that_fails_for_good_fails_its_node_and_cancels_what_runs(agent: Agent) -> None:
    async def main() -> None:
        cancelled: list[int] = []
        starts: list[int] = []
        last_runs = asyncio.Event()

        async def numbers(start: int) -> AsyncIterator[int]:
            starts.append(start)
            for number in range(start, 3):
                yield number
            await last_runs.wait()
            raise ConnectionError("cut off")

        @agent.node(map_over=numbers, max_retries=2)
        async def work(item: int) -> int:
            try:
                if item == 2:
                    last_runs.set()
                if item:
                    await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.append(item)
                raise
            return item

        agent.node(name="after")(lambda work: work)
        async with asyncio.timeout(10):
            outcome = await agent.run_task(task())

        assert outcome.status is RunStatus.FAILED
        assert starts == [0, 2]
        assert sorted(cancelled) == [1, 2]
        assert [(each.node, each.item, each.error, each.attempts) for each in outcome.failures] == [
            ("work", None, "ConnectionError: cut off", 2)
        ]
        assert outcome.node_results["work"].status is NodeStatus.FAILED
        assert outcome.node_results["after"].status is NodeStatus.PENDING

    run(main())


@pytest.mark.parametrize("seeks", [True, False])
def test_run_whose_generator_failed_for_good_goes_on_when_it_is_tried_again(
    agent: Agent, seeks: bool
) -> None:
    is_broken = True
    starts: list[int] = []
    calls: Counter[int] = Counter()

    def elements(start: int) -> Iterator[int]:
        starts.append(start)
        for number in range(start, 100):
            if is_broken and number == 60:
                raise ConnectionError("cut off")
            yield number

    def anew() -> Iterator[int]:
        yield from elements(0)

    @agent.node(map_over=elements if seeks else anew, max_retries=2)
    async def work(item: int) -> int:
        calls[item] += 1
        return item

    async def main() -> None:
        nonlocal is_broken
        first = await agent.run_task(task())
        assert first.status is RunStatus.FAILED
        is_broken = False
        async with asyncio.timeout(10):
            second = await agent.fork(first.run_id)
        assert (second.status, second["work"]) == (RunStatus.COMPLETE, list(range(100)))

    run(main())
    assert starts == ([0, 59, 59] if seeks else [0, 0, 0])
    assert set(calls) == set(range(100))


def test_generator_that_says_so_is_not_tried_again(agent: Agent) -> None:
    starts: list[int] = []

    def numbers() -> Iterator[int]:
        starts.append(0)
        yield 1
        raise NonRetryableException("never")

    agent.node(name="work", map_over=numbers, max_retries=5)(same)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert "never" in outcome.failures[0].error
    assert len(starts) == 1


def test_where_function_that_raises_fails_the_source(agent: Agent) -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)

    def is_small(item: int) -> bool:
        if item == 2:
            raise LookupError("no size of two")
        return True

    agent.node(name="work", map_over=numbers, where=is_small, max_retries=1)(same)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert outcome.failures[0].error == "LookupError: no size of two"


@pytest.mark.parametrize("is_async", [True, False])
def test_element_that_cannot_be_stored_is_named_by_its_place(agent: Agent, is_async: bool) -> None:
    async def asynchronous() -> AsyncIterator[Any]:
        yield {"page": 1}
        yield {"page": object()}

    def in_threads() -> Iterator[Any]:
        yield {"page": 1}
        yield {"page": object()}

    agent.node(name="work", map_over=asynchronous if is_async else in_threads, max_retries=1)(same)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert "UnstorableValue" in outcome.failures[0].error
    assert "work[1]" in outcome.failures[0].error


@pytest.mark.parametrize("before", [0, 2])
def test_generator_that_is_silent_for_too_long_has_failed(agent: Agent, before: int) -> None:
    closed: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(before):
                yield number
            await asyncio.Event().wait()
        finally:
            closed.append("closed")

    agent.node(name="work", map_over=numbers, timeout=0.2, max_retries=2)(same)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert outcome.failures[-1].error == "ModuleTimeout: numbers yielded nothing within timeout=0.2 s"
    assert outcome.failures[-1].attempts == 2
    assert closed == ["closed", "closed"]
    assert outcome.seconds < SOON_SECONDS


def test_sync_generator_that_is_silent_for_too_long_has_failed(agent: Agent) -> None:
    release = threading.Event()

    def numbers() -> Iterator[int]:
        yield 0
        release.wait(60)

    agent.node(name="work", map_over=numbers, timeout=0.2, max_retries=1)(same)

    outcome = agent.run_task_sync(task())
    release.set()

    assert outcome.status is RunStatus.FAILED
    assert "numbers yielded nothing within timeout=0.2 s" in outcome.failures[0].error
    assert outcome.seconds < SOON_SECONDS


def test_time_in_which_the_generator_is_held_is_not_its_own(redis_url: str) -> None:
    """The first items take longer than the timeout, one after the other; the generator waits for them all the while."""
    agent = agent_on(redis_url, max_concurrent_tasks=1)

    async def numbers() -> AsyncIterator[int]:
        for number in range(4_000):
            yield number

    @agent.node(map_over=numbers, timeout=0.5, max_retries=1)
    async def work(item: int) -> int:
        await asyncio.sleep(0.3 if item < 4 else 0)
        return item

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["work"] == list(range(4_000))


def test_generator_that_ignores_its_cancellation_does_not_hold_the_run(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "STOP_SECONDS", 0.2)

    async def main() -> None:
        is_over = asyncio.Event()

        async def numbers() -> AsyncIterator[int]:
            yield 0
            while not is_over.is_set():
                with suppress(asyncio.CancelledError):
                    await is_over.wait()

        agent.node(name="work", map_over=numbers)(same)
        agent.node(name="other")(lambda: 1)
        agent.decide(after=["other"], to=[], name="enough")(lambda: END)
        try:
            async with asyncio.timeout(20):
                outcome = await agent.run_task(task())
        finally:
            is_over.set()
        assert outcome.status is RunStatus.COMPLETE

    run(main())


def test_time_of_elements_that_are_left_out_counts_for_each(redis_url: str) -> None:
    """After a crash the generator yields once more what is stored: slowly, but it is not silent."""

    async def main() -> None:
        is_first = True

        async def numbers() -> AsyncIterator[int]:
            for number in range(40):
                if is_first and number == 30:
                    await asyncio.sleep(30)
                if not is_first:
                    await asyncio.sleep(0.03)
                yield number

        calls: Counter[int] = Counter()
        agent = agent_on(redis_url)

        @agent.node(map_over=numbers, timeout=0.5, max_retries=1)
        async def work(item: int) -> int:
            calls[item] += 1
            return item

        running = asyncio.create_task(agent.run_task(task(), run_id="left-out"))
        with client(redis_url) as connection:
            await until(lambda: connection.hget("gf:run:{left-out}:map:work", "done") == "30")
        await cancel(running)
        is_first = False

        outcome = await agent.resume("left-out")
        assert outcome.status is RunStatus.COMPLETE
        assert outcome["work"] == list(range(40))
        assert set(calls.values()) == {1}

    run(main())


def test_generator_that_ignores_its_timeout_has_failed_all_the_same(agent: Agent) -> None:
    async def main() -> None:
        is_over = asyncio.Event()

        async def numbers() -> AsyncIterator[int]:
            yield 0
            while not is_over.is_set():
                with suppress(asyncio.CancelledError):
                    await is_over.wait()

        agent.node(name="work", map_over=numbers, timeout=0.1, max_retries=1)(same)
        try:
            async with asyncio.timeout(20):
                outcome = await agent.run_task(task())
        finally:
            is_over.set()
        assert outcome.status is RunStatus.FAILED
        assert "yielded nothing within timeout=0.1 s" in outcome.failures[0].error

    run(main())


def test_element_that_comes_after_the_timeout_is_too_late(agent: Agent) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 0
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield 1

    agent.node(name="work", map_over=numbers, timeout=0.1, max_retries=1)(same)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert "yielded nothing within timeout=0.1 s" in outcome.failures[0].error


# What ends it


class Source:
    """A generator that waits after `before` elements and notes that it was closed."""

    def __init__(self, before: int) -> None:
        self.before = before
        self.waits = asyncio.Event()
        self.closed = 0

    async def numbers(self) -> AsyncIterator[int]:
        try:
            for number in range(self.before):
                yield number
            self.waits.set()
            await asyncio.Event().wait()
        finally:
            # Closing takes a while, as of a connection.
            await asyncio.sleep(0.02)
            self.closed += 1


@pytest.mark.parametrize("before", [0, 3])
def test_cancelled_run_closes_the_generator(agent: Agent, before: int) -> None:
    async def main() -> None:
        source = Source(before)
        agent.node(name="work", map_over=source.numbers)(same)
        running = asyncio.create_task(agent.run_task(task(), run_id=f"cancel-source-{before}"))
        await source.waits.wait()

        assert await agent.cancel(f"cancel-source-{before}") is RunStatus.CANCELLED
        outcome = await running

        assert outcome.status is RunStatus.CANCELLED
        assert source.closed == 1

    run(main())


@pytest.mark.parametrize("before", [0, 3])
def test_leaving_the_run_closes_the_generator_and_resuming_begins_it_again(agent: Agent, before: int) -> None:
    run_id = f"left-source-{before}"
    calls: Counter[int] = Counter()

    async def main() -> None:
        source = Source(before)

        async def numbers() -> AsyncIterator[int]:
            if source.closed:
                for number in range(5):
                    yield number
            else:
                async for number in source.numbers():
                    yield number

        @agent.node(map_over=numbers)
        async def work(item: int) -> int:
            calls[item] += 1
            return item

        running = asyncio.create_task(agent.run_task(task(), run_id=run_id))
        await source.waits.wait()
        await until(lambda: sum(calls.values()) == before)
        await cancel(running)
        await until(lambda: source.closed == 1)

        outcome = await agent.resume(run_id)
        assert outcome["work"] == list(range(5))
        assert set(calls) == set(range(5))

    run(main())


@pytest.mark.parametrize("before", [0, 3])
def test_drain_closes_the_generator_and_leaves_the_run_to_be_resumed(redis_url: str, before: int) -> None:
    run_id = f"drained-source-{before}"
    calls: Counter[int] = Counter()

    def agent_with(source: Any) -> Agent:
        agent = agent_on(redis_url, name="drained-source")

        @agent.node(map_over=source)
        async def numbers(item: int) -> int:
            calls[item] += 1
            return item

        return agent

    async def drained() -> None:
        source = Source(before)

        async def numbers() -> AsyncIterator[int]:
            async for number in source.numbers():
                yield number

        agent = agent_with(numbers)
        running = asyncio.create_task(agent.run_task(task(), run_id=run_id))
        await source.waits.wait()
        await until(lambda: sum(calls.values()) == before)
        # What it has not yielded is no work under way: nothing is waited for.
        agent.drain(grace_seconds=60)
        with pytest.raises(RunInterrupted):
            async with asyncio.timeout(10):
                await running
        assert source.closed == 1

    async def resumed() -> RunResult:
        async def numbers() -> AsyncIterator[int]:
            for number in range(4):
                yield number

        return await agent_with(numbers).run_task(task(), run_id=run_id)

    run(drained())
    outcome = run(resumed())

    assert outcome["numbers"] == [0, 1, 2, 3]
    assert set(calls.values()) == {1}, "what the drained process has done is done"


def test_sync_generator_that_is_held_up_is_closed_when_it_comes_back(agent: Agent) -> None:
    async def main() -> None:
        blocks, release, closed = threading.Event(), threading.Event(), threading.Event()

        def numbers() -> Iterator[int]:
            try:
                yield 0
                blocks.set()
                release.wait(60)
                yield 1
            finally:
                closed.set()

        agent.node(name="work", map_over=numbers)(same)
        running = asyncio.create_task(agent.run_task(task()))
        await until(blocks.is_set)
        await cancel(running)
        assert not closed.is_set()
        release.set()
        await until(closed.is_set)

    run(main())


@pytest.mark.parametrize("before", [0, 3])
def test_decision_for_end_closes_the_generator(agent: Agent, before: int) -> None:
    async def main() -> None:
        source = Source(before)
        agent.node(name="work", map_over=source.numbers)(same)

        @agent.node
        async def answer() -> int:
            await source.waits.wait()
            return 42

        agent.decide(after="answer", to=[], name="enough")(lambda: END)
        async with asyncio.timeout(10):
            outcome = await agent.run_task(task())

        assert outcome.status is RunStatus.COMPLETE
        assert outcome["answer"] == 42
        assert source.closed == 1

    run(main())


@pytest.mark.parametrize("before", [0, 3])
def test_deadline_closes_the_generator(redis_url: str, before: int) -> None:
    agent = agent_on(redis_url, deadline=0.5)

    async def main() -> None:
        source = Source(before)
        agent.node(name="work", map_over=source.numbers)(same)
        async with asyncio.timeout(10):
            outcome = await agent.run_task(task())

        assert outcome.status is RunStatus.FAILED
        assert "deadline=0.5" in (outcome.error or "")
        assert source.closed == 1

    run(main())


def test_item_that_fails_the_node_closes_the_generator(agent: Agent) -> None:
    async def main() -> None:
        source = Source(3)

        @agent.node(map_over=source.numbers, on_item_error="fail", max_retries=1)
        async def work(item: int) -> int:
            await source.waits.wait()
            raise ValueError("the first")

        async with asyncio.timeout(10):
            outcome = await agent.run_task(task())

        assert outcome.status is RunStatus.FAILED
        assert source.closed == 1

    run(main())


def test_second_visit_runs_the_generator_anew(agent: Agent, redis_url: str) -> None:
    starts: list[int] = []

    @agent.node
    async def size(cache: Any) -> int:
        visit = int(await cache.get("visit", 0)) + 1
        await cache.set("visit", visit)
        return 8 - 3 * visit

    def numbers(size: int, start: int) -> Iterator[int]:
        starts.append(start)
        yield from range(start, size)

    agent.node(name="double", map_over=numbers)(lambda item: 2 * item)

    @agent.decide(after="double", to="size")
    def again(double: list[int]) -> str | None:
        return "size" if len(double) == 5 else None

    outcome = agent.run_task_sync(task())

    assert outcome["double"] == [0, 2]
    assert outcome.node_results["double"].visits == 2
    assert starts == [0, 0]
    with client(redis_url) as connection:
        assert connection.hkeys(f"gf:run:{{{outcome.run_id}}}:map:double:in") == ["0", "1"]


def test_source_whose_parameter_changes_while_it_is_opened_is_begun_again(agent: Agent) -> None:
    async def main() -> None:
        seen: list[int] = []
        closed: list[int] = []
        changed = asyncio.Event()

        async def numbers(limit: int) -> AsyncIterator[int]:
            seen.append(limit)
            try:
                if len(seen) == 1:
                    await changed.wait()
                for number in range(limit):
                    yield number
            finally:
                closed.append(limit)

        @agent.node
        async def changes(cache: Any) -> None:
            await until(lambda: seen)
            await cache.set("limit", 3)

        @agent.node(dependencies=["changes"])
        async def after() -> None:
            changed.set()

        agent.node(name="work", map_over=numbers, inputs=["limit"])(same)
        async with asyncio.timeout(10):
            outcome = await agent.run_task(task(), state={"limit": 10})

        assert outcome["work"] == [0, 1, 2]
        assert seen == [10, 3]
        assert closed == [10, 3]
        assert outcome.node_results["work"].attempts == 1, "a conflict is no failed attempt"

    run(main())


def test_state_that_changes_after_the_first_page_does_not_begin_the_source_again(agent: Agent) -> None:
    async def main() -> None:
        seen: list[int] = []
        changed = asyncio.Event()

        async def numbers(limit: int) -> AsyncIterator[int]:
            seen.append(limit)
            yield 0
            await changed.wait()
            for number in range(1, limit):
                yield number

        @agent.node(map_over=numbers)
        async def work(item: int, cache: Any) -> int:
            if item == 0:
                await cache.set("limit", 1)
            return item

        @agent.node(name="watch")
        async def watch(cache: Any) -> None:
            while await cache.peek("limit") != 1:  # noqa: ASYNC110 - it is Redis that changes
                await asyncio.sleep(0.005)
            changed.set()

        async with asyncio.timeout(10):
            outcome = await agent.run_task(task(), state={"limit": 4})

        assert outcome["work"] == [0, 1, 2, 3]
        assert seen == [4]

    run(main())
