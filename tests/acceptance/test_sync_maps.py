"""Maps whose function is sync: threads pull the items, and every rule for items holds for them too."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphflow import Agent, NodeStatus, NonRetryableException, RunStatus, is_cancelled
from graphflow.engine import slots
from graphflow.engine.attempt import Attempt, CameTo
from graphflow.executors.threads import Threads
from tests.acceptance.support import agent_on, task, until
from tests.helpers import run, wait_until

#: Seconds after which a body that waits for something gives up: far more than it ever takes.
PATIENCE = 20


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


# What the function is given, and what it returns


def test_items_run_in_threads_and_their_results_come_in_input_order(agent: Agent) -> None:
    threads: set[str] = set()

    @agent.node(map_over="items")
    def double(item: int, index: int, plus: int = 1) -> list[int]:
        threads.add(threading.current_thread().name)
        time.sleep(0.001 * (item % 3))
        return [index, item * 2 + plus]

    outcome = agent.run_task_sync(task(), state={"items": list(range(10, 50))})

    assert outcome["double"] == [[index, 2 * (index + 10) + 1] for index in range(40)]
    assert threads
    assert all(name.startswith("graphflow-worker-") for name in threads)


def test_items_may_ask_for_the_task_for_results_and_for_state(agent: Agent) -> None:
    @agent.node
    def factors() -> list[int]:
        return [2, 3]

    @agent.node(map_over="items")
    def halve(item: int) -> float:
        return item / 2

    @agent.node(map_over="items")
    def join(
        item: int, factors: list[int], halve: list[float], index: int, offset: int, task: Any
    ) -> list[Any]:
        return [item * factors[0] * factors[1] + offset, halve[index], task.params["site"]]

    outcome = agent.run_task_sync(task(site="x"), state={"items": [1, 2, 3], "offset": 100})

    assert outcome["join"] == [[106, 0.5, "x"], [112, 1.0, "x"], [118, 1.5, "x"]]


def test_item_whose_key_changed_under_it_is_repeated_with_the_new_value(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=4)
    seen: list[int] = []
    changed = threading.Event()

    @agent.node(map_over="items")
    def read(item: int, level: int) -> int:
        seen.append(level)
        assert changed.wait(PATIENCE)
        return level

    @agent.node
    async def change(cache: Any) -> None:
        await until(lambda: seen)
        await cache.set("level", 2)

    @agent.node
    def release(change: None) -> None:
        changed.set()

    outcome = agent.run_task_sync(task(), state={"items": [0], "level": 1})

    assert outcome["read"] == [2]
    assert seen == [1, 2]


def test_batches_are_handed_over_as_lists(agent: Agent) -> None:
    batches: list[tuple[list[int], list[int]]] = []

    @agent.node(map_over="items", batch_size=4)
    def double(items: list[int], index: list[int]) -> list[int]:
        batches.append((items, index))
        return [item * 2 for item in items]

    outcome = agent.run_task_sync(task(), state={"items": list(range(10))})

    assert outcome["double"] == [item * 2 for item in range(10)]
    assert sorted(batches) == [([*part], [*part]) for part in (range(4), range(4, 8), range(8, 10))]


def test_batch_with_too_few_results_fails_its_items(agent: Agent) -> None:
    @agent.node(map_over="items", batch_size=2)
    def double(items: list[int]) -> list[int]:
        return [item * 2 for item in items if item != 3]

    outcome = agent.run_task_sync(task(), state={"items": list(range(6))})

    assert outcome["double"] == [0, 2, 8, 10]
    assert [failure.item for failure in outcome.failures] == [2, 3]
    assert "a batch of 2 items" in outcome.failures[0].error


def test_result_that_cannot_be_stored_fails_its_item_without_another_try(agent: Agent) -> None:
    calls: Counter[int] = Counter()

    @agent.node(map_over="items", max_retries=3)
    def work(item: int) -> Any:
        calls[item] += 1
        return object() if item == 1 else item

    outcome = agent.run_task_sync(task(), state={"items": [0, 1, 2]})

    assert outcome["work"] == [0, 2]
    assert [(failure.item, failure.attempts) for failure in outcome.failures] == [(1, 1)]
    assert "object" in outcome.failures[0].error
    assert calls == {0: 1, 1: 1, 2: 1}


def test_items_see_the_context_of_the_caller_and_not_that_of_each_other(agent: Agent) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    @agent.node(map_over="items")
    def work(item: int) -> str:
        seen = user.get()
        user.set(f"item {item}")
        return seen

    async def main() -> list[str]:
        user.set("somebody")
        outcome = await agent.run_task(task(), state={"items": list(range(30))})
        assert user.get() == "somebody"
        return outcome["work"]  # type: ignore[no-any-return]

    assert run(main()) == ["somebody"] * 30


# How many at a time


@pytest.mark.parametrize("limits", [{"agent": 100, "node": 4}, {"agent": 4, "node": None}])
def test_as_many_items_as_allowed_run_at_the_same_time_and_never_more(
    redis_url: str, limits: dict[str, int | None]
) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=limits["agent"])
    together = threading.Barrier(4, timeout=PATIENCE)
    running: set[int] = set()
    most: list[int] = []

    @agent.node(map_over="items", max_concurrency=limits["node"])
    def work(item: int) -> int:
        running.add(item)
        most.append(len(running))
        together.wait()
        running.discard(item)
        # Nobody leaves before all have noted that they are about to.
        together.wait()
        return item

    outcome = agent.run_task_sync(task(), state={"items": list(range(40))})

    assert outcome["work"] == list(range(40))
    assert max(most) == 4


def test_short_items_do_not_wait_behind_one_that_is_slow(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=4)
    done: list[int] = []
    others = threading.Event()

    @agent.node(map_over="items")
    def work(item: int) -> int:
        if item == 0:
            assert others.wait(PATIENCE)
        done.append(item)
        if len(done) == 99:
            others.set()
        return item

    outcome = agent.run_task_sync(task(), state={"items": list(range(100))})

    assert outcome["work"] == list(range(100))
    assert done[-1] == 0


def test_items_that_compute_leave_turns_to_the_event_loop(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=3)
    ticks = 0

    @agent.node(map_over="items")
    def spin(item: int) -> bool:
        end = time.monotonic() + PATIENCE
        while ticks < 10 and time.monotonic() < end:
            pass
        return ticks >= 10

    @agent.node
    async def tick() -> None:
        nonlocal ticks
        while ticks < 10:
            await asyncio.sleep(0)
            ticks += 1

    assert agent.run_task_sync(task(), state={"items": [0, 1]})["spin"] == [True, True]


# Failures


def test_failed_items_are_tried_again_and_then_listed(agent: Agent) -> None:
    calls: Counter[int] = Counter()

    @agent.node(map_over="items", max_retries=3)
    def work(item: int) -> int:
        calls[item] += 1
        if item == 5 or (item == 3 and calls[item] < 3):
            raise ValueError(f"not {item}")
        if item == 6:
            raise NonRetryableException("never")
        return item

    outcome = agent.run_task_sync(task(), state={"items": list(range(8))})

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["work"] == [0, 1, 2, 3, 4, 7]
    assert {failure.item: failure.attempts for failure in outcome.failures} == {5: 3, 6: 1}
    assert calls[3] == calls[5] == 3


class Odd(BaseException):
    """No Exception."""


@pytest.mark.parametrize(
    "kind", [StopIteration, GeneratorExit, SystemExit, KeyboardInterrupt, asyncio.CancelledError, Odd]
)
def test_whatever_a_body_raises_is_the_failure_of_its_item(agent: Agent, kind: type[BaseException]) -> None:
    @agent.node(map_over="items", max_retries=1)
    def work(item: int) -> int:
        if item == 1:
            raise kind("odd")
        return item

    outcome = agent.run_task_sync(task(), state={"items": [0, 1, 2]})

    assert outcome["work"] == [0, 2]
    assert [(failure.item, failure.error) for failure in outcome.failures] == [(1, f"{kind.__name__}: odd")]


def test_item_over_its_timeout_fails_alone_learns_of_it_and_keeps_no_slot(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=1)
    told, over = threading.Event(), threading.Event()

    @agent.node(map_over="items", max_retries=1, timeout=0.2)
    def work(item: int) -> int:
        if item == 0:
            while not is_cancelled():
                told.wait(0.01)
            told.set()
            over.wait(PATIENCE)
        return item

    @agent.node
    def total(work: list[int]) -> int:
        # The body of the first item may end now: what it returns comes too late.
        over.set()
        return sum(work)

    outcome = agent.run_task_sync(task(), state={"items": [0, 1, 2, 3]})

    assert told.wait(PATIENCE)
    assert outcome["work"] == [1, 2, 3]
    assert outcome["total"] == 6
    assert [(failure.item, failure.error) for failure in outcome.failures] == [
        (0, "ModuleTimeout: no result within timeout=0.2 s")
    ]


def test_item_over_its_timeout_is_tried_again_and_what_its_first_try_returns_later_is_not_taken(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    calls: Counter[int] = Counter()
    reported: Counter[int | None] = Counter()
    take_report = slots.Slots._executor_ended

    def note_report(self: slots.Slots, attempt: Attempt, came_to: CameTo) -> None:
        take_report(self, attempt, came_to)
        reported[attempt.index] += 1

    monkeypatch.setattr(slots.Slots, "_executor_ended", note_report)

    @agent.node(map_over="items", max_retries=2, timeout=0.5)
    def work(item: int) -> int:
        calls[item] += 1
        if item == 1 and calls[item] == 1:
            let_go.wait(PATIENCE)
            return -1
        if item == 1:
            let_go.set()
            # The late one of its first try.
            wait_until(lambda: reported[1] == 1)
        return item

    outcome = agent.run_task_sync(task(), state={"items": [0, 1, 2]})

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["work"] == [0, 1, 2]
    assert calls == {0: 1, 1: 2, 2: 1}


def test_item_whose_time_was_up_before_a_thread_was_free_is_not_begun(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system lets no more threads be started."""
    let_go = threading.Event()
    calls: list[int] = []
    workers: list[threading.Thread] = []
    add_thread = Threads._add_thread

    def add_first_thread(threads: Threads) -> None:
        if threads._threads:
            raise RuntimeError("can't start new thread")
        add_thread(threads)

    monkeypatch.setattr(Threads, "_add_thread", add_first_thread)

    @agent.node(map_over="items", max_retries=1, timeout=0.2)
    def work(item: int) -> int:
        workers.append(threading.current_thread())
        calls.append(item)
        let_go.wait(PATIENCE)
        return item

    outcome = agent.run_task_sync(task(), state={"items": [0, 1, 2]})
    let_go.set()
    workers[0].join(PATIENCE)

    assert {failure.item for failure in outcome.failures} >= {0, 1, 2}
    assert not workers[0].is_alive()
    assert calls == [0]


# The end comes from elsewhere


def test_first_failed_item_stops_the_others_and_they_learn_of_it(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=3)
    begun, told = threading.Barrier(3, timeout=PATIENCE), threading.Barrier(3, timeout=PATIENCE)
    calls: list[int] = []

    @agent.node(map_over="items", on_item_error="fail", max_retries=1)
    def work(item: int) -> int:
        calls.append(item)
        begun.wait()
        if item == 0:
            raise ValueError("no zero")
        while not is_cancelled():
            time.sleep(0.005)
        told.wait()
        return item

    @agent.node(run_when="settled", dependencies=["work"])
    def report() -> str:
        told.wait()
        return "said"

    outcome = agent.run_task_sync(task(), state={"items": list(range(10))})

    assert outcome["report"] == "said"
    assert outcome.node_results["work"].status is NodeStatus.FAILED
    assert sorted(calls) == [0, 1, 2]


def test_items_of_a_cancelled_run_learn_of_it_and_no_more_are_started(redis_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        agent = agent_on(redis_url, max_concurrent_tasks=2)
        calls: list[int] = []
        told: list[int] = []

        @agent.node(map_over="items")
        def work(item: int) -> int:
            calls.append(item)
            while not is_cancelled():
                time.sleep(0.005)
            told.append(item)
            return item

        running = asyncio.create_task(
            agent.run_task(task(), state={"items": list(range(10))}, run_id=tmp_path.name)
        )
        await until(lambda: len(calls) == 2)
        await agent.cancel(tmp_path.name)
        outcome = await running

        assert outcome.status is RunStatus.CANCELLED
        await until(lambda: sorted(told) == [0, 1])
        assert sorted(calls) == [0, 1]

    run(main())


def test_map_that_was_broken_off_runs_what_is_left_when_it_is_resumed(redis_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        calls: Counter[int] = Counter()
        let_go = threading.Event()

        def agent(hangs: bool) -> Agent:
            agent = agent_on(redis_url, max_concurrent_tasks=4)

            @agent.node(name="work", map_over="items")
            def work(item: int) -> int:
                calls[item] += 1
                if hangs and item == 30:
                    let_go.wait(PATIENCE)
                return item

            return agent

        start: Callable[[bool], Any] = lambda hangs: agent(hangs).run_task(  # noqa: E731
            task(), state={"items": list(range(60))}, run_id=tmp_path.name
        )
        running = asyncio.create_task(start(True))
        await until(lambda: len(calls) == 60)
        running.cancel()
        await asyncio.wait([running])
        outcome = await start(False)
        let_go.set()

        assert outcome["work"] == list(range(60))
        assert calls[30] == 2

    run(main())


def test_process_ends_although_an_item_never_does(redis_url: str, tmp_path: Path) -> None:
    program = tmp_path / "never.py"
    program.write_text(NEVER)

    ended = subprocess.run(
        [sys.executable, str(program), redis_url], capture_output=True, text=True, timeout=30, check=False
    )

    assert ended.stdout == "partial [0, 2]\n", ended.stderr
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr


NEVER = """
import sys, threading
from graphflow import Agent, RedisCache, Task

agent = Agent(cache=RedisCache(sys.argv[1]))

@agent.node(map_over="items", timeout=0.1, max_retries=1)
def work(item):
    if item == 1:
        threading.Event().wait()
    return item

outcome = agent.run_task_sync(Task(type="never"), state={"items": [0, 1, 2]})
print(outcome.status.value, outcome["work"])
"""


# Places for faults


def test_each_item_passes_the_places_for_faults(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: Counter[str] = Counter()
    monkeypatch.setattr(slots, "failpoint", lambda name: passed.update([name]))

    @agent.node(map_over="items")
    def work(item: int) -> int:
        return item

    agent.run_task_sync(task(), state={"items": list(range(20))})

    # One more launch and one more return: the map's source.
    assert passed == {"attempt.launched": 21, "attempt.returned": 21}
