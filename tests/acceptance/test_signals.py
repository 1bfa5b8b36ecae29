"""A module run that waits for a signal ends; the run is suspended, its process may end, and the answer starts it again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from graphflow import Agent, RunStatus
from graphflow.errors import RunOver
from tests.acceptance.support import agent_on, client, keys_of_run, task


class Approval(BaseModel):
    approved: bool
    by: str = "nobody"


def asking_agent(url: str, calls: list[str], **settings: Any) -> Agent:
    """One module that asks for an approval, with a step before it."""
    agent = agent_on(url, **settings)

    async def draft(text: str) -> str:
        calls.append(text)
        return f"draft of {text}"

    @agent.node
    async def asks(cache):
        text = await cache.step("draft", draft, "a letter", key="a letter")
        approval = await cache.wait_for_signal("approve", Approval)
        return f"{text}, {'sent' if approval.approved else 'thrown away'} by {approval.by}"

    @agent.node
    def after(asks):
        return asks.upper()

    return agent


async def until_stored(url: str, run_id: str) -> None:
    while not keys_of_run(url, run_id):  # noqa: ASYNC110 - another client is watched
        await asyncio.sleep(0.001)


def test_a_run_that_waits_for_a_signal_is_suspended_and_goes_on_with_it(redis_url: str) -> None:
    calls: list[str] = []
    agent = asking_agent(redis_url, calls)

    async def main() -> None:
        first = await agent.run_task(task(), run_id="approved")
        assert first.status is RunStatus.SUSPENDED
        assert "graphflow signal approved approve JSON" in str(first.error)
        await agent.signal("approved", "approve", {"approved": True, "by": "Ada"})
        second = await agent.resume("approved")
        assert second.status is RunStatus.COMPLETE, second.error
        assert second["after"] == "DRAFT OF A LETTER, SENT BY ADA"

    asyncio.run(main())
    assert calls == ["a letter"], "the step before the wait is not called again"
    left = [key.rpartition(":")[2] for key in keys_of_run(redis_url, "approved")]
    assert not {"steps", "waits", "signals", "lease", "inbox"} & set(left)


def test_a_suspended_run_holds_no_lease_and_says_in_redis_what_it_waits_for(redis_url: str) -> None:
    agent = asking_agent(redis_url, [])

    outcome = agent.run_task_sync(task(), run_id="what-it-waits-for")

    assert "asks waits for the signal 'approve'" in outcome.explain("asks")
    with client(redis_url) as connection:
        run = "gf:run:{what-it-waits-for}"
        assert connection.hget(run, "status") == "suspended"
        assert "waits for signal approve" in str(connection.hget(run, "progress"))
        assert connection.hget(f"{run}:nodes", "asks") == "waiting"
        assert connection.hkeys(f"{run}:waits") == ["asks:1:0:-"]
        assert not connection.exists(f"{run}:lease")
        assert not connection.hexists(run, "owner")
        assert connection.ttl(run) == -1
        assert connection.zscore("gf:runs:open", "what-it-waits-for") is not None


def test_a_suspended_run_to_which_nothing_was_sent_is_suspended_again_at_once(redis_url: str) -> None:
    calls: list[str] = []
    agent = asking_agent(redis_url, calls)
    agent.run_task_sync(task(), run_id="nothing-new")

    again = [agent.run_task_sync(task(), run_id="nothing-new") for _ in range(2)]

    assert [outcome.status for outcome in again] == [RunStatus.SUSPENDED] * 2
    assert calls == ["a letter"]


def test_a_signal_that_comes_before_it_is_awaited_is_kept(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def first():
        await agent.signal("kept", "go", 1)
        await agent.signal("kept", "go", 2)

    @agent.node
    async def second(first, cache):
        return [await cache.wait_for_signal("go"), await cache.wait_for_signal("go")]

    async def main() -> Any:
        await agent.run_task(task(), run_id="kept")
        return await agent.resume("kept")

    outcome = asyncio.run(main())

    assert outcome["second"] == [1, 2]


def test_a_signal_that_comes_before_the_run_begins_is_kept(redis_url: str) -> None:
    agent = asking_agent(redis_url, [])

    async def main() -> Any:
        started = asyncio.create_task(agent.run_task(task(), run_id="early"))
        await until_stored(redis_url, "early")
        await agent.signal("early", "approve", {"approved": False})
        await started
        return await agent.resume("early")

    assert "thrown away by nobody" in asyncio.run(main())["asks"]


def test_a_signal_to_a_run_that_is_driven_is_taken_by_who_drives_it(redis_url: str) -> None:
    agent = agent_on(redis_url, lease_seconds=0.3)
    stop = asyncio.Event()

    @agent.node
    async def asks(cache):
        return await cache.wait_for_signal("go")

    @agent.node
    async def works(cache):
        await stop.wait()

    @agent.node
    def after(asks):
        stop.set()
        return asks

    async def main() -> Any:
        running = asyncio.create_task(agent.run_task(task(), run_id="driven"))
        await until_stored(redis_url, "driven")
        await agent.signal("driven", "go", "went")
        return await running

    assert asyncio.run(main())["after"] == "went"


def test_items_of_a_map_wait_each_for_its_own_signal(redis_url: str) -> None:
    agent = agent_on(redis_url)
    runs: list[str] = []

    @agent.node(map_over="papers")
    async def review(paper, cache):
        runs.append(paper)
        return f"{paper}: {await cache.wait_for_signal(f'review {paper}')}"

    async def main() -> Any:
        state = {"papers": ["a", "b", "c"]}
        first = await agent.run_task(task(), state=state, run_id="reviews")
        assert first.status is RunStatus.SUSPENDED
        await agent.signal("reviews", "review b", "good")
        second = await agent.resume("reviews")
        assert second.status is RunStatus.SUSPENDED
        assert runs == ["a", "b", "c", "b"], "only what was answered runs again"
        await agent.signal("reviews", "review c", "bad")
        await agent.signal("reviews", "review a", "fine")
        return await agent.resume("reviews")

    assert asyncio.run(main())["review"] == ["a: fine", "b: good", "c: bad"]


def test_who_has_waited_longest_for_a_name_is_answered_first(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def first(cache):
        return await cache.wait_for_signal("next")

    @agent.node
    async def begins_later():
        await asyncio.sleep(0.05)

    @agent.node
    async def second(begins_later, cache):
        return await cache.wait_for_signal("next")

    async def main() -> Any:
        await agent.run_task(task(), run_id="in-line")
        for value in (1, 2):
            await agent.signal("in-line", "next", value)
        return await agent.resume("in-line")

    outcome = asyncio.run(main())

    assert (outcome["first"], outcome["second"]) == (1, 2)


def test_the_answer_stays_through_retries_and_is_forgotten_with_the_visit(redis_url: str) -> None:
    agent = agent_on(redis_url)
    answers = []

    @agent.node(max_retries=2)
    async def asks(cache):
        answers.append(await cache.wait_for_signal("go"))
        await cache.increment("rounds")
        if len(answers) == 1:
            raise ValueError("once more")

    @agent.decide(after="asks", to=["asks"])
    async def again(cache):
        return "asks" if await cache.get("rounds") < 2 else None

    async def main() -> RunStatus:
        await agent.run_task(task(), state={"rounds": 0}, run_id="two-rounds")
        await agent.signal("two-rounds", "go", "one")
        second = await agent.resume("two-rounds")
        assert second.status is RunStatus.SUSPENDED, "the second visit asks anew"
        await agent.signal("two-rounds", "go", "two")
        return (await agent.resume("two-rounds")).status

    assert asyncio.run(main()) is RunStatus.COMPLETE
    assert answers == ["one", "one", "two"]


def test_a_wait_in_a_task_group_ends_the_module_run_too(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def asks(cache):
        async with asyncio.TaskGroup() as group:
            wait = group.create_task(cache.wait_for_signal("go"))
        return wait.result()

    async def main() -> Any:
        first = await agent.run_task(task(), run_id="in-a-group")
        assert first.status is RunStatus.SUSPENDED
        await agent.signal("in-a-group", "go", 3)
        return await agent.resume("in-a-group")

    assert asyncio.run(main())["asks"] == 3


def test_what_was_written_before_the_wait_is_dropped(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def asks(cache):
        await cache.increment("runs")
        await cache.wait_for_signal("go")

    async def main() -> Any:
        first = await agent.run_task(task(), run_id="writes-dropped")
        assert "runs" not in first
        await agent.signal("writes-dropped", "go")
        return await agent.resume("writes-dropped")

    assert asyncio.run(main())["runs"] == 1


def test_a_suspended_run_can_be_cancelled(redis_url: str) -> None:
    agent = asking_agent(redis_url, [])

    async def main() -> RunStatus:
        await agent.run_task(task(), run_id="cancelled-while-suspended")
        return await agent.cancel("cancelled-while-suspended")

    assert asyncio.run(main()) is RunStatus.CANCELLED
    left = [key.rpartition(":")[2] for key in keys_of_run(redis_url, "cancelled-while-suspended")]
    assert not {"waits", "signals"} & set(left)


def test_nothing_can_be_sent_to_a_run_that_is_over(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    def quick():
        pass

    async def main() -> None:
        await agent.run_task(task(), run_id="over")
        with pytest.raises(RunOver, match="is over"):
            await agent.signal("over", "go")

    asyncio.run(main())


def test_a_retry_under_way_keeps_the_run_from_being_suspended(redis_url: str) -> None:
    agent = agent_on(redis_url)
    attempts = []

    @agent.node
    async def asks(cache):
        return await cache.wait_for_signal("go")

    @agent.node(max_retries=2)
    async def flaky():
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("once")

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.SUSPENDED
    assert outcome.node_results["flaky"].status == "succeeded"


def test_stream_ends_when_the_run_is_suspended(redis_url: str) -> None:
    agent = asking_agent(redis_url, [])

    async def main() -> list[str]:
        return [event.kind async for event in agent.stream(task(), run_id="streamed-until-suspended")]

    kinds = asyncio.run(main())

    assert kinds[-2:] == ["SignalAwaited", "RunSuspended"]
