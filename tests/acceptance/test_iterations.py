"""What max_total_iterations counts: what a run does by itself, not how long it talks with people."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graphflow import (
    END,
    Agent,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    Node,
    RunResult,
    RunStatus,
)
from tests.acceptance.support import agent_on, keys_of_run, task, until


def conversation(url: str, **settings: Any) -> Agent:
    """Asks again and again until it is told to stop; a limit of 3 node runs."""
    agent = agent_on(url, max_total_iterations=3, **settings)

    @agent.node
    async def asks(cache):
        answer = await cache.wait_for_signal("say")
        await cache.set("answer", answer)
        await cache.increment("turns")

    @agent.decide(after="asks", to=["asks"])
    async def goes_on(cache):
        return END if await cache.get("answer") == "stop" else "asks"

    return agent


def test_conversation_does_not_end_at_a_number_of_turns(redis_url: str) -> None:
    agent = conversation(redis_url)

    async def main() -> RunResult:
        outcome = await agent.run_task(task(), run_id="long-talk")
        for word in [*"abcdefgh", "stop"]:
            assert outcome.status is RunStatus.SUSPENDED, outcome.error
            await agent.signal("long-talk", "say", word)
            outcome = await agent.resume("long-talk")
        return outcome

    outcome = asyncio.run(main())
    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["turns"] == 9


def test_signals_that_came_early_count_anew_when_each_is_taken(redis_url: str) -> None:
    agent = conversation(redis_url)

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="all-at-once")
        for word in [*"abcdefgh", "stop"]:
            await agent.signal("all-at-once", "say", word)
        return await agent.resume("all-at-once")

    assert asyncio.run(main())["turns"] == 9


@pytest.mark.parametrize("how", ["in a module", "in a step", "in a task", "in a thread"])
def test_run_that_signals_itself_ends_at_the_number(how: str, redis_url: str) -> None:
    agent = agent_on(redis_url, max_total_iterations=8)
    run_id = f"to-itself-{how.replace(' ', '-')}"

    async def send() -> None:
        await agent.signal(run_id, "go", 1)

    @agent.node
    async def signals(cache):
        match how:
            case "in a step":
                await cache.step("send", send, key="send")
            case "in a task":
                await asyncio.create_task(send())
            case "in a thread":
                await asyncio.to_thread(lambda: asyncio.run(send()))
            case _:
                await send()

    @agent.node
    async def waits(signals, cache):
        return await cache.wait_for_signal("go")

    @agent.decide(after="waits", to=["signals"])
    def again():
        return "signals"

    async def main() -> RunResult:
        outcome = await agent.run_task(task(), run_id=run_id)
        while outcome.status is RunStatus.SUSPENDED:
            outcome = await agent.resume(run_id)
        return outcome

    outcome = asyncio.run(main())
    assert outcome.status is RunStatus.FAILED
    assert "max_total_iterations=8" in str(outcome.error)


def loop_of_messages(url: str, run_id: str, *, from_itself: bool) -> Agent:
    agent = agent_on(url, max_total_iterations=4, lease_seconds=0.3)

    @agent.node
    async def takes(cache):
        if from_itself:
            await agent.send_message(run_id, "words", "again")
        if await cache.get_message("words", timeout=60) == "stop":
            return False
        await cache.increment("taken")
        return True

    @agent.decide(after="takes", to=["takes"])
    async def again(takes):
        return "takes" if takes else END

    return agent


def test_messages_from_outside_count_anew(redis_url: str) -> None:
    agent = loop_of_messages(redis_url, "told", from_itself=False)

    async def main() -> RunResult:
        running = asyncio.create_task(agent.run_task(task(), run_id="told"))
        await until(lambda: keys_of_run(redis_url, "told"))
        for word in [*"abcdefgh", "stop"]:
            await agent.send_message("told", "words", word)
        return await running

    outcome = asyncio.run(main())
    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["taken"] == 8


def test_run_that_sends_messages_to_itself_ends_at_the_number(redis_url: str) -> None:
    agent = loop_of_messages(redis_url, "tells-itself", from_itself=True)

    outcome = agent.run_task_sync(task(), run_id="tells-itself")

    assert outcome.status is RunStatus.FAILED
    assert "max_total_iterations=4" in str(outcome.error)
    assert outcome["taken"] == 4


def test_functions_that_decide_are_not_counted(redis_url: str) -> None:
    agent = agent_on(redis_url, max_total_iterations=5)

    @agent.node
    async def works(cache):
        await cache.increment("rounds")

    @agent.decide(after="works", to=["works"])
    async def again(cache):
        return "works" if await cache.get("rounds") < 5 else END

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["rounds"] == 5


def test_functions_that_decide_for_each_other_alone_are_counted(redis_url: str) -> None:
    agent = agent_on(redis_url, max_total_iterations=6)

    @agent.node
    def begins():
        pass

    @agent.decide(after="begins", to=["there"])
    def here():
        return "there"

    @agent.decide(to=["here"])
    def there():
        return "here"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert "max_total_iterations=6" in str(outcome.error)


def test_function_that_a_supervisor_asks_again_and_again_is_counted(redis_url: str) -> None:
    agent = agent_on(redis_url, max_total_iterations=6)

    @agent.decide(to=[END], start=False)
    def nothing_yet():
        return []

    agent.add_node(
        Node(
            name="supervisor",
            modules=[
                FlowControlModule(
                    name="supervisor",
                    flow_config=FlowControlConfig(
                        decisions=[FlowDecision(next_node="nothing_yet", condition="True", repeat=True)]
                    ),
                )
            ],
        )
    )

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert "max_total_iterations=6" in str(outcome.error)
