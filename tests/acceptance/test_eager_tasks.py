"""Where tasks begin at once everything goes as elsewhere: those that the engine begins so itself, and all of a loop with
`asyncio.eager_task_factory`.

Python 3.12 or newer: `tests/conftest.py` leaves this file out below. With uvloop installed, each test runs on it as well.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import uuid
from collections.abc import Callable, Coroutine
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import pytest

from graphflow import Agent, RunInterrupted, RunStatus
from graphflow.entrance.sweep import Sweep
from graphflow.ids import RunId
from tests.acceptance.support import agent_on, task, until

T = TypeVar("T")

LOOPS = [
    (module, is_eager)
    for module in ("asyncio", "uvloop")
    if module == "asyncio" or find_spec(module)
    for is_eager in (True, False)
]

PATIENCE_SECONDS = 60
#: More than a page of a map's items.
MANY = 3_000


@pytest.fixture(params=LOOPS, ids=lambda loop: f"{loop[0]}-{'eager' if loop[1] else 'plain'}")
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine on a loop of this kind."""
    module, is_eager = request.param

    def new_loop() -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = import_module(module).new_event_loop()
        if is_eager:
            loop.set_task_factory(_begin_at_once)
        return loop

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        async def watched() -> T:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await coroutine

        # A loop whose idea of the current task is broken runs no timeout of its own.
        signal.signal(signal.SIGALRM, _give_up)
        signal.alarm(PATIENCE_SECONDS + 10)
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                return runner.run(watched())
        finally:
            signal.alarm(0)

    return run


def _begin_at_once(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, Any],
    *,
    eager_start: object = None,
    **options: Any,
) -> asyncio.Task[Any]:
    """uvloop hands on an `eager_start` that the factory of Python 3.13.0 does not take."""
    task: asyncio.Task[Any] = asyncio.eager_task_factory(loop, work, **options)  # type: ignore[attr-defined]
    return task


def _give_up(*_: object) -> None:
    raise TimeoutError(f"the event loop did not answer within {PATIENCE_SECONDS + 10} s")


@pytest.fixture(params=["server", "memory"])
def agent(request: pytest.FixtureRequest, redis_url: str) -> Agent:
    """On a store that answers after a while, and on one that may answer at once."""
    url = redis_url if request.param == "server" else f"memory://{uuid.uuid4().hex}"
    return agent_on(url, name="eager", lease_seconds=2)


def test_a_map_of_several_pages_runs(agent: Agent, run: Any) -> None:
    @agent.node(map_over="numbers")
    async def double(number):
        if number % 100 == 0:
            await asyncio.sleep(0)
        return 2 * number

    outcome = run(agent.run_task(task(), state={"numbers": list(range(MANY))}))

    assert outcome["double"] == [2 * number for number in range(MANY)]


def test_a_map_whose_items_write_state_runs(agent: Agent, run: Any) -> None:
    @agent.node(map_over="numbers")
    async def add(number, cache):
        await cache.increment("sum", number)

    outcome = run(agent.run_task(task(), state={"numbers": list(range(500)), "sum": 0}))

    assert outcome["sum"] == sum(range(500))


def test_a_map_whose_items_are_sync_functions_runs(agent: Agent, run: Any) -> None:
    agent.node(name="double", map_over="numbers")(lambda number: 2 * number)

    outcome = run(agent.run_task(task(), state={"numbers": list(range(MANY))}))

    assert outcome["double"] == [2 * number for number in range(MANY)]


def test_an_interrupted_map_is_resumed(agent: Agent, run: Any) -> None:
    done: list[int] = []
    is_held = True

    @agent.node(map_over="numbers")
    async def work(number):
        if is_held and number >= 1_000:
            await asyncio.sleep(3600)
        done.append(number)
        return number

    async def interrupted() -> str:
        nonlocal is_held
        running = asyncio.create_task(
            agent.run_task(task(), state={"numbers": list(range(MANY))}, run_id=f"eager-{id(done)}")
        )
        await until(lambda: len(done) == 1_000)
        agent.drain(0.1)
        with pytest.raises(RunInterrupted) as interruption:
            await running
        is_held = False
        return interruption.value.run_id

    outcome = run(agent.resume(run(interrupted())))

    assert (outcome.status, outcome["work"]) == (RunStatus.COMPLETE, list(range(MANY)))
    assert sorted(done) == list(range(MANY)), "what was stored did not run again"


@pytest.mark.parametrize("is_async", [True, False])
def test_a_map_over_a_generator_runs_and_is_reduced(
    agent: Agent, run: Any, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def numbers():
        for number in range(MANY):
            yield number

    def sync_numbers():
        yield from range(MANY)

    @agent.node(
        map_over=numbers if is_async else sync_numbers, reduce=lambda a, b: a + b, timeout=2, batch_size=10
    )
    async def work(batch):
        return batch

    @agent.node
    async def after(work):
        await asyncio.sleep(2.5 if is_async else 0)
        return work

    with caplog.at_level(logging.WARNING, "graphflow"):
        outcome = run(agent.run_task(task()))

    assert outcome["work"] == sum(range(MANY))
    assert "is left behind" not in caplog.text, "a generator that had ended at once"


def test_results_are_folded_while_no_further_item_ends(agent: Agent, run: Any) -> None:
    folded = asyncio.Event()

    def add(left: int, right: int) -> int:
        folded.set()
        return left + right

    @agent.node(map_over="numbers", reduce=add)
    async def work(number):
        if number == 2:
            await folded.wait()
        return number

    assert run(agent.run_task(task(), state={"numbers": [0, 1, 2]}))["work"] == 3


def test_maps_over_maps_run(agent: Agent, run: Any) -> None:
    agent.node(name="first", map_over="numbers")(_identity)
    agent.node(name="second", map_over="first")(_identity)
    agent.node(name="third", map_over="second", pipelined=True)(_identity)

    outcome = run(agent.run_task(task(), state={"numbers": list(range(MANY))}))

    assert outcome["third"] == list(range(MANY))


async def _identity(item: Any) -> Any:
    return item


def test_steps_messages_and_signals_go_their_ways(agent: Agent, run: Any) -> None:
    calls = []

    async def ask(question):
        calls.append(question)
        return f"answer to {question}"

    @agent.node
    async def thinks(cache):
        answers = await asyncio.gather(*(cache.step("ask", ask, n, key=n) for n in range(20)))
        await cache.publish_to_mailbox("answers", answers)

    @agent.node
    async def waits(cache):
        return await cache.get_message("answers")

    @agent.node
    async def asks(cache, waits):
        return await cache.wait_for_signal("go")

    async def main() -> Any:
        first = await agent.run_task(task())
        assert first.status is RunStatus.SUSPENDED
        await agent.signal(first.run_id, "go", 3)
        return await agent.resume(first.run_id)

    outcome = run(main())

    assert outcome.status is RunStatus.COMPLETE
    assert (outcome["asks"], outcome["waits"]) == (3, [f"answer to {n}" for n in range(20)])
    assert calls == list(range(20))


def test_bodies_have_contexts_of_their_own(agent: Agent, run: Any) -> None:
    seen: list[str] = []
    who = contextvars.ContextVar("who", default="nobody")

    @agent.node(map_over="numbers")
    async def work(number):
        seen.append(who.get())
        who.set(f"item {number}")
        await asyncio.sleep(0)
        current = asyncio.current_task()
        assert current is not None
        assert who.get() == f"item {number}"
        return current.cancelling()

    async def main() -> Any:
        who.set("the caller")
        return await agent.run_task(task(), state={"numbers": list(range(50))})

    assert run(main())["work"] == [0] * 50
    assert seen == ["the caller"] * 50


def test_what_fails_at_once_is_tried_again(agent: Agent, run: Any) -> None:
    attempts: list[int] = []

    @agent.node(map_over="numbers", max_retries=2)
    async def work(number):
        attempts.append(number)
        if attempts.count(number) == 1:
            raise ValueError(number)
        return number

    outcome = run(agent.run_task(task(), state={"numbers": list(range(20))}))

    assert outcome["work"] == list(range(20))
    assert len(attempts) == 40


def test_a_time_that_is_up_and_a_cancellation_end_bodies(agent: Agent, run: Any) -> None:
    began = []

    @agent.node(timeout=0.1, max_retries=1, on_error="handler")
    async def slow():
        await asyncio.sleep(3600)

    @agent.node
    async def handler():
        began.append(True)
        await asyncio.sleep(3600)

    async def main() -> Any:
        run_id = f"eager-cancel-{id(began)}"
        running = asyncio.create_task(agent.run_task(task(), run_id=run_id))
        await until(lambda: began)
        assert await agent.cancel(run_id) is RunStatus.CANCELLED
        return await running

    outcome = run(main())

    assert outcome.status is RunStatus.CANCELLED


def test_runs_are_streamed_and_recovered(agent: Agent, run: Any) -> None:
    agent.node(name="work", map_over="numbers")(_identity)

    async def main() -> Any:
        events = [event async for event in agent.stream(task(), state={"numbers": [1, 2, 3]})]
        assert await agent.recover() == []
        return type(events[-1]).__name__

    assert run(main()) == "RunFinished"


def test_a_sweep_whose_first_run_breaks_it_at_once_says_so_once(run: Any) -> None:
    async def resume(run_id: Any) -> None:
        raise LookupError(run_id)

    async def main() -> None:
        sweep = Sweep([RunId(name) for name in "abc"], resume, lambda run_id, error: None, None)
        with pytest.raises(LookupError, match="a"):
            await sweep.run()
        await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("instant", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("is_plain", [True, False])
def test_progress_counts_the_items_that_wait_after_others_that_end_at_once(
    redis_url: str, run: Any, instant: int, is_plain: bool
) -> None:
    agent = agent_on(redis_url, name="eager", max_concurrent_tasks=2)
    waiting = []

    async def main() -> Any:
        looked = asyncio.Event()

        async def work(number):
            if number >= instant:
                waiting.append(number)
                await looked.wait()

        async def work_on_state(number, cache):
            await cache.set(f"seen {number}", number)
            await work(number)

        agent.node(name="work", map_over="numbers")(work if is_plain else work_on_state)
        run_id = f"eager-progress-{uuid.uuid4().hex}"
        state = {"numbers": list(range(instant + 2))}
        running = asyncio.create_task(agent.run_task(task(), state=state, run_id=run_id))

        async def seen() -> Any:
            return (await agent.progress(run_id))["work"]

        await until(lambda: len(waiting) == 2)
        while (progress := await seen()).done < instant:  # noqa: ASYNC110 - what is waited for is in Redis
            await asyncio.sleep(0.01)
        looked.set()
        await running
        return progress.done, progress.active, (await seen()).active

    assert run(main()) == (instant, 2, 0)
