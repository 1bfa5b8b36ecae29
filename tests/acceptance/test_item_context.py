"""The body of an item runs as in a plain task of its own: context, cancellation, scopes, the loop's time."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import Any

import anyio
import pytest

from graphflow import END, Agent, RunStatus
from tests.acceptance.support import agent_on, task
from tests.helpers import run

COUNT = 400
#: Seconds that the loop may be kept from others while items run.
MOST_LAG = 0.2

colour: contextvars.ContextVar[Any] = contextvars.ContextVar("colour", default="white")


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url, max_concurrent_tasks=50)


def numbers(count: int = COUNT) -> dict[str, Any]:
    return {"items": list(range(count))}


@pytest.mark.parametrize("waits", [True, False])
def test_variable_set_in_an_item_is_seen_nowhere_else(agent: Agent, waits: bool) -> None:
    @agent.node(map_over="items")
    async def work(item: int) -> list[Any]:
        before = colour.get()
        colour.set(item)
        if waits:
            await asyncio.sleep(0.001 * (item % 5))
        return [before, colour.get()]

    @agent.node
    async def after(work: list[Any]) -> Any:
        return colour.get()

    outcome = agent.run_task_sync(task(), state=numbers())

    assert outcome["work"] == [["white", item] for item in range(COUNT)]
    assert outcome["after"] == "white"
    assert colour.get() == "white"


def test_variable_of_whoever_runs_the_task_is_seen_in_each_item(agent: Agent) -> None:
    @agent.node(map_over="items")
    async def work(item: int) -> Any:
        return colour.get()

    async def main() -> None:
        colour.set("green")
        outcome = await agent.run_task(task(), state=numbers())
        assert outcome["work"] == ["green"] * COUNT

    run(main())


def test_retry_of_an_item_begins_with_a_fresh_context(agent: Agent) -> None:
    seen: list[Any] = []

    @agent.node(map_over="items", max_retries=2)
    async def work(item: int) -> None:
        seen.append(colour.get())
        colour.set("red")
        if len(seen) == 1:
            raise ConnectionError("the first time")

    assert agent.run_task_sync(task(), state=numbers(1)).status is RunStatus.COMPLETE
    assert seen == ["white", "white"]


@pytest.mark.parametrize("waits", [True, False])
def test_item_that_raises_cancelled_error_by_itself_has_failed_alone(agent: Agent, waits: bool) -> None:
    @agent.node(map_over="items", max_retries=1)
    async def work(item: int) -> int:
        if waits:
            await asyncio.sleep(0.001)
        if item == 200:
            raise asyncio.CancelledError("by itself")
        return item

    outcome = agent.run_task_sync(task(), state=numbers())

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["work"] == [item for item in range(COUNT) if item != 200]
    assert [(each.item, each.error) for each in outcome.failures] == [(200, "CancelledError: by itself")]


def test_item_that_cancels_its_own_task_has_failed_alone(agent: Agent) -> None:
    @agent.node(map_over="items", max_retries=1)
    async def work(item: int) -> int:
        if item == 200:
            current = asyncio.current_task()
            assert current is not None
            current.cancel("by itself")
        await asyncio.sleep(0)
        return item

    outcome = agent.run_task_sync(task(), state=numbers())

    assert outcome.status is RunStatus.PARTIAL
    assert len(outcome["work"]) == COUNT - 1
    assert [each.item for each in outcome.failures] == [200]


def test_item_whose_child_was_cancelled_has_failed_alone(agent: Agent) -> None:
    @agent.node(map_over="items", max_retries=1)
    async def work(item: int) -> int:
        child = asyncio.ensure_future(asyncio.sleep(0))
        if item == 200:
            child.cancel()
        await child
        return item

    outcome = agent.run_task_sync(task(), state=numbers())

    assert outcome.status is RunStatus.PARTIAL
    assert len(outcome["work"]) == COUNT - 1
    assert "CancelledError" in outcome.failures[0].error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_item_that_raises_what_ends_programs_has_failed_alone(
    agent: Agent, error: type[BaseException]
) -> None:
    @agent.node(map_over="items", max_retries=1)
    async def work(item: int) -> int:
        if item == 20:
            raise error("by itself")
        return item

    outcome = agent.run_task_sync(task(), state=numbers(40))

    assert len(outcome["work"]) == 39
    assert [(each.item, error.__name__ in each.error) for each in outcome.failures] == [(20, True)]


@pytest.mark.parametrize("slots", [50, 1_000])
def test_items_that_compute_leave_the_loop_to_others(redis_url: str, slots: int) -> None:
    """Bodies of two milliseconds without an await, hundreds of which are ready at a time."""
    agent = agent_on(redis_url, max_concurrent_tasks=slots)

    @agent.node(map_over="items")
    async def work(item: int) -> int:
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            pass
        return item

    async def main() -> None:
        ticker = asyncio.create_task(_most_lag())
        outcome = await agent.run_task(task(), state=numbers())
        ticker.cancel()
        lag = await ticker
        assert outcome["work"] == list(range(COUNT))
        assert lag < MOST_LAG

    run(main())


def test_many_short_items_leave_the_loop_to_others(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=2_000)

    @agent.node(map_over="items")
    async def work(item: int) -> int:
        return item

    async def main() -> None:
        ticker = asyncio.create_task(_most_lag())
        outcome = await agent.run_task(task(), state=numbers(10_000))
        ticker.cancel()
        lag = await ticker
        assert len(outcome["work"]) == 10_000
        assert lag < MOST_LAG

    run(main())


async def _most_lag() -> float:
    """The longest that the loop kept this from running, when it is cancelled: in seconds of its thread's computing, so
    that what else the machine does is not in it."""
    most, last = 0.0, time.thread_time()
    try:
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            most, last = max(most, now - last), now
    except asyncio.CancelledError:
        return most


def test_timeout_inside_a_body_is_its_own(agent: Agent) -> None:
    @agent.node(map_over="items", max_retries=1)
    async def work(item: int) -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(30 if item % 2 else 0)
        except TimeoutError:
            return "late"
        return "in time"

    outcome = agent.run_task_sync(task(), state=numbers())

    assert outcome["work"] == ["in time", "late"] * (COUNT // 2)


def test_timeout_that_passes_out_of_a_body_is_its_failure(agent: Agent) -> None:
    @agent.node(map_over="items", max_retries=1)
    async def work(item: int) -> int:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(30 if item == 3 else 0)
        return item

    outcome = agent.run_task_sync(task(), state=numbers(10))

    assert [(each.item, each.error) for each in outcome.failures] == [(3, "TimeoutError")]


def test_timeout_inside_a_body_does_not_swallow_the_items_own(agent: Agent) -> None:
    @agent.node(map_over="items", max_retries=1, timeout=0.1)
    async def work(item: int) -> int:
        try:
            async with asyncio.timeout(20):
                await asyncio.sleep(30)
        except TimeoutError:
            return -1
        return item

    outcome = agent.run_task_sync(task(), state=numbers(5))

    assert outcome.status is RunStatus.FAILED
    assert {each.error for each in outcome.failures if each.item is not None} == {
        "ModuleTimeout: no result within timeout=0.1 s"
    }


def test_cancel_scopes_of_anyio_inside_a_body(agent: Agent) -> None:
    @agent.node(map_over="items", max_retries=1)
    async def work(item: int) -> list[Any]:
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(30 if item % 2 else 0)
        try:
            with anyio.fail_after(0.01):
                await anyio.sleep(30)
        except TimeoutError:
            return [scope.cancelled_caught, "late"]
        return []

    outcome = agent.run_task_sync(task(), state=numbers())

    assert outcome["work"] == [[False, "late"], [True, "late"]] * (COUNT // 2)


def test_task_groups_inside_a_body(agent: Agent) -> None:
    @agent.node(map_over="items", max_retries=1)
    async def work(item: int) -> list[int]:
        found: list[int] = []

        async def child(number: int) -> None:
            await anyio.sleep(0.001)
            if item == 7 and number == 1:
                raise LookupError("of a child")
            found.append(number)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(child, number)
        async with asyncio.TaskGroup() as plain:
            for number in range(3, 5):
                plain.create_task(child(number))
        return sorted(found)

    outcome = agent.run_task_sync(task(), state=numbers(100))

    assert outcome["work"] == [[0, 1, 2, 3, 4]] * 99
    assert [each.item for each in outcome.failures] == [7]
    assert "ExceptionGroup" in outcome.failures[0].error


def test_each_item_has_a_task_of_its_own(agent: Agent) -> None:
    tasks: set[asyncio.Task[Any]] = set()

    @agent.node(map_over="items", max_concurrency=20)
    async def work(item: int) -> bool:
        current = asyncio.current_task()
        assert current is not None
        tasks.add(current)
        await asyncio.sleep(0.001)
        return asyncio.current_task() is current and not current.cancelling()

    outcome = agent.run_task_sync(task(), state=numbers())

    assert outcome["work"] == [True] * COUNT
    assert len(tasks) == COUNT


def test_callbacks_and_children_of_a_body_keep_its_context(agent: Agent) -> None:
    @agent.node(map_over="items")
    async def work(item: int) -> list[Any]:
        colour.set(item)
        seen: list[Any] = []
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.call_soon(lambda: seen.append(colour.get()))
        loop.call_later(0.001, lambda: (seen.append(colour.get()), ended.set_result(None)))

        async def child() -> None:
            seen.append(colour.get())

        await asyncio.create_task(child())
        await ended
        return seen

    outcome = agent.run_task_sync(task(), state=numbers())

    assert outcome["work"] == [[item] * 3 for item in range(COUNT)]


def test_cancelled_item_cleans_up_undisturbed(agent: Agent) -> None:
    """A decision ends the run: what runs is cancelled once, and its clean-up is awaited."""

    async def main() -> None:
        begun = asyncio.Event()
        cleaned: list[int] = []

        @agent.node(map_over="items")
        async def work(item: int) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.02)
                cleaned.append(item)

        @agent.node
        async def other() -> None:
            await begun.wait()

        agent.decide(after="other", to=[], name="enough")(lambda: END)
        outcome = await agent.run_task(task(), state=numbers(20))

        assert outcome.status is RunStatus.COMPLETE
        assert sorted(cleaned) == list(range(20))

    run(main())


def test_task_that_a_body_leaves_behind_goes_on(agent: Agent) -> None:
    async def main() -> None:
        left: list[asyncio.Task[Any]] = []
        go_on = asyncio.Event()

        @agent.node(map_over="items")
        async def work(item: int) -> None:
            left.append(asyncio.create_task(go_on.wait()))

        await agent.run_task(task(), state=numbers(10))
        assert not any(each.done() for each in left)
        go_on.set()
        await asyncio.gather(*left)

    run(main())
