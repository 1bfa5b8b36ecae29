"""When do state keys end that were set with a ttl? By a clock that the test turns."""

from __future__ import annotations

import asyncio
from typing import Any

from graphflow import Agent, RunResult, RunStatus, Task
from graphflow.events import Event, KeyExpired, NodeStarted
from graphflow.ids import RunId
from graphflow.testing import MemoryCache, TurnedClock, crash_at, module_cache, play_every_order

RUN = RunId("run")
MISSING = "missing"


def ran(agent: Agent) -> RunResult:
    return TurnedClock().run(agent.run_task(Task(type="test"), run_id=RUN))


def told(agent: Agent) -> list[Event]:
    cache = agent.cache
    assert isinstance(cache, MemoryCache)
    return cache.memory.runs[RUN].events


def test_key_is_there_until_its_time_and_then_no_more() -> None:
    agent = Agent(cache=MemoryCache())

    @agent.node
    async def sets(cache):
        await cache.set("key", "value", ttl=5)

    @agent.node
    async def looks(sets, cache):
        seen = []
        for _ in range(3):
            seen.append(await cache.peek("key", MISSING))
            await asyncio.sleep(4)
        return seen

    assert ran(agent)["looks"] == ["value", "value", MISSING]
    began, expired = told(agent)[0].at, [each for each in told(agent) if isinstance(each, KeyExpired)]
    assert [(each.key, each.at) for each in expired] == [("key", began + 5000)]


def test_time_counts_from_the_commit_and_not_from_the_call() -> None:
    agent = Agent(cache=MemoryCache())

    @agent.node
    async def sets(cache):
        await cache.set("key", "value", ttl=5)
        await asyncio.sleep(100)

    @agent.node
    async def looks(sets, cache):
        await asyncio.sleep(4)
        return await cache.get("key")

    assert ran(agent)["looks"] == "value"


def test_module_run_that_has_read_a_key_is_repeated_when_the_key_ends() -> None:
    agent = Agent(cache=MemoryCache())
    reads: list[str] = []

    @agent.node
    async def sets(cache):
        await cache.set("key", "value", ttl=5)

    @agent.node(max_retries=1)
    async def reader(sets, cache):
        reads.append(await cache.get("key", MISSING))
        await asyncio.sleep(6)
        return reads[-1]

    outcome = ran(agent)

    assert reads == ["value", MISSING]
    assert outcome["reader"] == MISSING
    assert outcome.node_results["reader"].attempts == 1


def test_replaced_end_does_not_delete_the_key() -> None:
    agent = Agent(cache=MemoryCache())

    @agent.node
    async def sets(cache):
        await cache.set("kept", 1, ttl=5)
        await cache.set("longer", 1, ttl=5)
        await cache.set("shorter", 1, ttl=50)

    @agent.node
    async def sets_again(sets, cache):
        await asyncio.sleep(4)
        await cache.set("kept", 1)
        await cache.set("longer", 1, ttl=5)
        await cache.set("shorter", 1, ttl=5)

    @agent.node
    async def looks(sets_again, cache):
        await asyncio.sleep(4)
        before = [await cache.peek(key, 0) for key in ("kept", "longer", "shorter")]
        await asyncio.sleep(2)
        return before, [await cache.peek(key, 0) for key in ("kept", "longer", "shorter")]

    assert ran(agent)["looks"] == ([1, 1, 1], [1, 0, 0])


def test_run_ends_without_waiting_for_its_keys_and_they_stay() -> None:
    agent = Agent(cache=MemoryCache())

    @agent.node
    async def sets(cache):
        await cache.set("key", "value", ttl=5)

    clock = TurnedClock()
    outcome = clock.run(agent.run_task(Task(type="test"), run_id=RUN))

    assert clock.seconds == 0
    assert outcome["key"] == "value"


def test_run_that_waits_for_a_message_of_nobody_fails_at_once_although_a_key_is_to_end() -> None:
    agent = Agent(cache=MemoryCache())

    @agent.node
    async def sets(cache):
        await cache.set("key", "value", ttl=50)

    @agent.node
    async def waits(sets, cache):
        await cache.get_message("nobody")

    clock = TurnedClock()
    outcome = clock.run(agent.run_task(Task(type="test"), run_id=RUN))

    assert outcome.status is RunStatus.FAILED
    assert clock.seconds < 50


def test_keys_of_a_sub_graph_end_like_others_and_only_those() -> None:
    inner, agent = Agent(name="inner"), Agent(cache=MemoryCache())

    @inner.node
    async def sets(cache):
        await cache.set("key", "inner", ttl=5)

    @inner.node
    async def looks(sets, cache):
        before = await cache.peek("key", MISSING)
        await asyncio.sleep(6)
        return [before, await cache.peek("key", MISSING)]

    @agent.node
    async def outer(cache):
        await cache.set("key", "outer", ttl=50)

    agent.node(name="nested", dependencies=["outer"], outputs={"seen": "looks"})(inner)
    outcome = ran(agent)

    assert outcome["seen"] == ["inner", MISSING]
    assert outcome["key"] == "outer"
    assert [event.key for event in told(agent) if isinstance(event, KeyExpired)] == ["nested/key"]


def resumed_after_a_crash(seconds: float, ttl: float) -> tuple[list[Any], list[Event]]:
    """What a node sees of a key before its process dies, and when the run is resumed so many seconds later, with the facts
    that were told since."""
    agent = Agent(cache=MemoryCache())
    seen: list[Any] = []

    @agent.node
    async def sets(cache):
        await cache.set("key", "value", ttl=ttl)

    @agent.node
    async def looks(sets, cache):
        seen.append(await cache.get("key", MISSING))
        await cache.step("dies", lambda: None)

    async def main() -> int:
        with crash_at("step.before_send"):
            await agent.run_task(Task(type="test"), run_id=RUN)
        count = len(told(agent))
        await asyncio.sleep(seconds)
        await agent.resume(RUN)
        return count

    count = TurnedClock().run(main())
    return seen, told(agent)[count:]


def test_key_whose_end_has_come_is_deleted_before_anything_else_of_a_resumed_run() -> None:
    seen, events = resumed_after_a_crash(seconds=5, ttl=5)

    assert seen == ["value", MISSING]
    assert isinstance(events[0], KeyExpired)
    assert [event.kind for event in events].count("KeyExpired") == 1


def test_key_whose_end_has_not_come_is_not_deleted_early_in_a_resumed_run() -> None:
    seen, events = resumed_after_a_crash(seconds=4, ttl=5)

    assert seen == ["value", "value"]
    assert not [event for event in events if isinstance(event, KeyExpired)]


def test_condition_of_a_resumed_run_does_not_see_a_key_that_is_overdue() -> None:
    """The death of the process is counted after the key is gone: what is considered then must not see it."""
    agent = Agent(cache=MemoryCache())

    @agent.node
    async def sets(cache):
        await cache.set("key", 1, ttl=5)

    @agent.node(max_crashes=1, run_when="settled")
    async def dies(sets, cache):
        await cache.step("dies", lambda: None)

    @agent.node(run_when="settled", condition="key == 1")
    async def conditional(dies):
        return "ran"

    async def main() -> RunResult:
        with crash_at("step.before_send"):
            await agent.run_task(Task(type="test"), run_id=RUN)
        await asyncio.sleep(6)
        return await agent.resume(RUN)

    outcome = TurnedClock().run(main())

    assert outcome.node_results["dies"].error is not None
    started = [event.node for event in told(agent) if isinstance(event, NodeStarted)]
    assert "conditional" not in started


def test_every_order_of_ends_and_module_runs_comes_to_what_some_order_of_them_gives() -> None:
    agent = Agent(cache=MemoryCache())

    @agent.node
    async def sets(cache):
        await cache.set("key", 1, ttl=5)

    @agent.node
    async def counts(sets, cache):
        await cache.increment("key")

    @agent.node
    async def reads(sets, cache):
        return await cache.get("key", MISSING)

    seen: set[tuple[Any, Any]] = set()

    def check(outcome: RunResult) -> None:
        seen.add((outcome["reads"], outcome.get("key", None)))

    played = play_every_order(agent, Task(type="test"), check)

    assert played.is_every
    assert seen <= {(reads, key) for reads in (1, 2, MISSING) for key in (2, None, 1)}
    assert {(1, 2), (2, 2)} <= seen
    assert {key for _, key in seen} == {2, 1, None}


def test_module_alone_shows_the_ttls_of_its_keys() -> None:
    async def main() -> None:
        async with module_cache(state={"old": 1}) as cache:
            await cache.set("token", "secret", ttl=60)
            await cache.set("now", 1, ttl=5, immediate=True)
            await cache.set("both", 1, ttl=5)
            await cache.set("both", 1)
            await cache.set("count", 1, ttl=7)
            await cache.increment("count")
            assert cache.ttls == {"token": 60, "now": 5, "count": 7}
        assert cache.ttls == {"token": 60, "now": 5, "count": 7}
        assert cache.state == {"old": 1, "token": "secret", "now": 1, "both": 1, "count": 2}

    asyncio.run(main())
