"""A module run does not end while a step of it is under way: what is paid for is remembered."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from graphflow import Agent, NonRetryableException, RunResult, RunStatus, is_cancelled
from tests.acceptance.support import agent_on, task, until

calls: list[str] = []
ended: list[str] = []

#: How a body does several things at once.
Together = Callable[..., Awaitable[Any]]


@pytest.fixture(autouse=True)
def forget_calls() -> None:
    calls.clear()
    ended.clear()


async def hang() -> None:
    calls.append("hang")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        ended.append("cancelled")
        raise


async def ask(question: str) -> str:
    """Takes some turns of the loop and some time."""
    calls.append(question)
    await asyncio.sleep(0.05)
    return f"answer to {question}"


def ask_in_thread(question: str) -> str:
    calls.append(question)
    threading.Event().wait(0.05)
    assert not is_cancelled()
    return f"answer to {question}"


async def gathered(*things: Any) -> list[Any]:
    return await asyncio.gather(*things)


async def grouped(*things: Any) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(thing) for thing in things]
    return [task.result() for task in tasks]


async def answered(agent: Agent, run_id: str, **state: Any) -> RunResult:
    """The run, suspended first and then answered."""
    async with asyncio.timeout(20):
        first = await agent.run_task(task(), run_id=run_id, state=state)
        assert first.status is RunStatus.SUSPENDED, first.error
        await agent.signal(run_id, "go", 1)
        return await agent.resume(run_id)


@pytest.fixture(params=[gathered, grouped])
def together(request: pytest.FixtureRequest) -> Together:
    chosen: Together = request.param
    return chosen


@pytest.mark.parametrize("function", [ask, ask_in_thread])
@pytest.mark.parametrize("waits_first", [True, False])
def test_a_step_beside_a_wait_for_a_signal_is_called_once(
    redis_url: str, together: Together, function: Any, waits_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def works(cache):
        things = [cache.step("ask", function, "why"), cache.wait_for_signal("go")]
        return await together(*(reversed(things) if waits_first else things))

    with caplog.at_level(logging.WARNING):
        outcome = asyncio.run(
            answered(agent, f"beside-{together.__name__}-{function.__name__}-{waits_first}")
        )

    assert set(outcome["works"]) == {"answer to why", 1}
    assert calls == ["why"]
    assert caplog.text == ""


def test_steps_one_after_another_beside_a_wait_are_called_once_each(
    redis_url: str, together: Together
) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def works(cache):
        async def two() -> list[str]:
            return [await cache.step("ask", ask, question) for question in ("why", "how")]

        return await together(two(), cache.step("ask", ask, "when"), cache.wait_for_signal("go"))

    outcome = asyncio.run(answered(agent, f"chain-{together.__name__}"))

    assert outcome["works"] == [["answer to why", "answer to how"], "answer to when", 1]
    assert sorted(calls) == ["how", "when", "why"]


def test_a_step_of_a_map_item_beside_a_wait_is_called_once(redis_url: str, together: Together) -> None:
    agent = agent_on(redis_url)

    @agent.node(map_over="numbers")
    async def works(number, cache):
        waits = cache.wait_for_signal("go") if number == 1 else asyncio.sleep(0, None)
        return await together(cache.step("ask", ask, f"{number}"), waits)

    outcome = asyncio.run(answered(agent, f"items-{together.__name__}", numbers=[0, 1, 2]))

    assert outcome["works"] == [[f"answer to {number}", 1 if number == 1 else None] for number in range(3)]
    assert sorted(calls) == ["0", "1", "2"]


def test_steps_that_wait_for_signals_themselves_do_not_wait_for_each_other(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def works(cache):
        async def approved(signal: str) -> Any:
            return await cache.wait_for_signal(signal)

        return await asyncio.gather(
            cache.step("one", approved, "go", key=1), cache.step("two", approved, "on", key=2)
        )

    async def main() -> RunResult:
        async with asyncio.timeout(20):
            await agent.run_task(task(), run_id="inside")
            await agent.signal("inside", "go", 1)
            await agent.signal("inside", "on", 2)
            return await agent.resume("inside")

    assert asyncio.run(main())["works"] == [1, 2]


def test_a_step_beside_a_failure_is_not_called_again_by_the_next_attempt(redis_url: str) -> None:
    agent = agent_on(redis_url)
    attempts = []

    async def fail() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("the other failed")

    @agent.node(max_retries=2)
    async def works(cache):
        answer, _ = await asyncio.gather(cache.step("ask", ask, "why"), fail())
        return answer

    outcome = asyncio.run(agent.run_task(task()))

    assert outcome["works"] == "answer to why"
    assert (calls, len(attempts)) == (["why"], 2)


def test_a_step_beside_a_patience_that_has_ended_is_not_called_again(redis_url: str) -> None:
    agent = agent_on(redis_url)
    attempts = []

    @agent.node(max_retries=2)
    async def works(cache):
        attempts.append(1)
        try:
            return await asyncio.gather(
                cache.step("ask", ask, "why"),
                cache.get_message("box", timeout=0.01 if len(attempts) == 1 else 5),
            )
        except TimeoutError as error:
            raise ValueError("try again") from error

    @agent.node
    async def sends(cache):
        await asyncio.sleep(0.1)
        await cache.publish_to_mailbox("box", "hello")

    outcome = asyncio.run(agent.run_task(task()))

    assert outcome["works"] == ["answer to why", "hello"]
    assert (calls, len(attempts)) == (["why"], 2)


def test_a_step_beside_a_read_that_lost_a_conflict_is_not_called_again(
    redis_url: str, together: Together
) -> None:
    agent = agent_on(redis_url)
    written = asyncio.Event()
    runs = []

    @agent.node
    async def works(cache):
        runs.append(await cache.get("number"))

        async def late() -> Any:
            await written.wait()
            return await cache.get("other")

        return await together(cache.step("ask", ask_slowly, "why", key=1), late())

    async def ask_slowly(question: str) -> str:
        calls.append(question)
        await written.wait()
        await asyncio.sleep(0.05)
        return f"answer to {question}"

    @agent.node
    async def writer(cache):
        await until(lambda: calls)
        await cache.set("number", 2)

    @agent.node
    def after(writer):
        written.set()

    works_with = {"number": 1, "other": 3}
    outcome = asyncio.run(agent.run_task(task(), state=works_with))

    assert outcome["works"] == ["answer to why", 3]
    assert runs == [1, 2]
    assert calls == ["why"]


def test_a_step_that_nobody_waits_for_is_over_when_its_module_run_ends(redis_url: str) -> None:
    agent = agent_on(redis_url)
    answers = []
    left = set()

    async def ask_and_tell() -> str:
        answers.append(await ask("why"))
        return answers[0]

    @agent.node
    async def works(cache):
        left.add(asyncio.create_task(cache.step("ask", ask_and_tell, key=1)))
        await until(lambda: calls)

    @agent.node
    def after(works):
        return list(answers)

    assert asyncio.run(agent.run_task(task()))["after"] == ["answer to why"]


@pytest.mark.parametrize("ending", ["timeout", "cancel", "drain", "END"])
def test_a_step_under_way_beside_a_wait_ends_with_what_ends_its_module_run(
    redis_url: str, ending: str
) -> None:
    agent = agent_on(redis_url, lease_seconds=0.5)

    @agent.node(timeout=0.2 if ending == "timeout" else 600, max_retries=1)
    async def works(cache):
        return await asyncio.gather(cache.step("hang", hang, key=1), cache.wait_for_signal("go"))

    if ending == "END":

        @agent.decide(to=[])
        async def stops():
            await until(lambda: calls)
            return "END"

    async def main() -> RunResult | None:
        async with asyncio.timeout(20):
            running = asyncio.create_task(agent.run_task(task(), run_id=f"hanging-{ending}"))
            await until(lambda: calls)
            if ending == "cancel":
                await agent.cancel(f"hanging-{ending}")
            if ending == "drain":
                agent.drain(0.1)
                await asyncio.wait([running])
                assert running.exception() is not None
                return None
            return await running

    outcome = asyncio.run(main())

    assert ended == ["cancelled"]
    assert calls == ["hang"]
    if ending == "timeout":
        assert outcome is not None
        assert "no result within timeout=0.2 s" in outcome.failures[0].error


def test_a_step_left_behind_by_a_failure_ends_with_the_time_of_its_module_run(redis_url: str) -> None:
    agent = agent_on(redis_url)

    async def fail() -> None:
        await until(lambda: calls)
        raise NonRetryableException("the other failed")

    @agent.node(timeout=0.2, max_retries=1)
    async def works(cache):
        await asyncio.gather(cache.step("hang", hang, key=1), fail())

    async def main() -> RunResult:
        async with asyncio.timeout(20):
            return await agent.run_task(task())

    outcome = asyncio.run(main())

    assert outcome.status is RunStatus.FAILED
    assert "the other failed" in outcome.failures[0].error
    assert ended == ["cancelled"]
