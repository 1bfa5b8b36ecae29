"""State keys that were set with a ttl end by a transaction of their own, and not before their time."""

from __future__ import annotations

import asyncio
import math
import uuid
from typing import Any

import pytest

from graphflow import Agent, Cache, RunStatus, SnapshotControl, clock
from graphflow.events import Event, KeyExpired, NodeSucceeded, event_from_fields
from graphflow.ids import RunId
from tests.acceptance.support import agent_on, client, keys_of_run, task
from tests.helpers import run

#: So short that waiting for it costs little.
SHORT_SECONDS = 0.2
#: Longer than any test.
LONG_SECONDS = 3600.0
MISSING = "missing"


def stored_events(url: str, run_id: str) -> list[Event]:
    with client(url) as connection:
        entries = connection.xrange(f"gf:run:{{{run_id}}}:events")
    return [event_from_fields(fields) for _, fields in entries]


def ends(url: str, run_id: str) -> dict[str, int]:
    with client(url) as connection:
        return {key: int(end) for key, end in connection.hgetall(f"gf:run:{{{run_id}}}:expiring").items()}


async def gone(cache: Cache, key: str) -> None:
    """Wait until the key is deleted, without a checked read."""
    while await cache.peek(key, MISSING) != MISSING:  # noqa: ASYNC110 - it is the key that is waited for
        await asyncio.sleep(0.01)


def pass_time(url: str, key_of_run: str, key: str) -> None:
    """Let the end of a state key be in the past: as if so much time had gone by while nobody drove the run."""
    with client(url) as connection:
        assert connection.hset(key_of_run, key, int(clock.now()) - 1) == 0


def test_key_set_with_ttl_is_deleted_with_an_event_and_not_before_its_time(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def sets(cache):
        await cache.set("token", "secret", ttl=SHORT_SECONDS)
        await cache.set("ends-kept", 1)

    @agent.node
    async def waits(sets, cache):
        await gone(cache, "token")
        return await cache.keys()

    outcome = run(agent.run_task(task(), run_id="expiring"))

    assert outcome["waits"] == ["ends-kept", "sets"]
    events = stored_events(redis_url, "expiring")
    (told,) = [event for event in events if isinstance(event, KeyExpired)]
    set_at = next(event.at for event in events if isinstance(event, NodeSucceeded))
    assert told.key == "token"
    assert told.at >= set_at + 1000 * SHORT_SECONDS
    with client(redis_url) as connection:
        assert not connection.exists("gf:run:{expiring}:expiring")
        assert int(connection.hget("gf:run:{expiring}:revisions", "token")) == told.revision


def test_run_without_ttl_has_no_key_for_ends(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def sets(cache):
        await cache.set("ends-kept", 1)

    run(agent.run_task(task(), run_id="plain"))

    assert "gf:run:{plain}:expiring" not in keys_of_run(redis_url, "plain")


@pytest.mark.parametrize(
    ("later", "factor"),
    [
        (lambda cache: cache.set("key", "first"), None),
        (lambda cache: cache.set("key", "second"), None),
        (lambda cache: cache.set("key", "first", immediate=True), None),
        (lambda cache: cache.delete("key"), None),
        (lambda cache: cache.clear(), None),
        (lambda cache: cache.set("key", "second", ttl=2 * LONG_SECONDS), 2),
        (lambda cache: cache.set("key", "first", ttl=2 * LONG_SECONDS), 2),
        (lambda cache: cache.set("key", "first", ttl=2 * LONG_SECONDS, immediate=True), 2),
    ],
    ids=["same-value", "value", "at-once", "delete", "clear", "ttl", "ttl-same-value", "ttl-at-once"],
)
def test_later_set_or_delete_takes_the_place_of_the_end_that_a_key_has(
    redis_url: str, later: Any, factor: int | None
) -> None:
    agent = agent_on(redis_url)
    run_id = f"later-{uuid.uuid4().hex}"

    @agent.node
    async def first(cache):
        await cache.set("key", "first", ttl=LONG_SECONDS)

    @agent.node
    async def second(first, cache):
        before = await asyncio.to_thread(ends, redis_url, run_id)
        await later(cache)
        return before["key"]

    outcome = run(agent.run_task(task(), run_id=run_id))

    found = ends(redis_url, run_id)
    assert [*found] == ["key"] * (factor is not None)
    assert all(end >= outcome["second"] + 1000 * LONG_SECONDS for end in found.values())


def test_result_of_a_function_keeps_the_key_of_its_name_for_good(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def sets(cache):
        await cache.set("sets", 1, ttl=LONG_SECONDS)
        await cache.set("later", 1, ttl=LONG_SECONDS)
        return 2

    @agent.node
    async def later(sets, cache):
        await cache.increment("later")
        return 3

    outcome = run(agent.run_task(task(), run_id="results"))

    assert (outcome["sets"], outcome["later"]) == (2, 3)
    assert ends(redis_url, "results") == {}


def test_changes_in_place_leave_a_key_the_end_that_it_has(redis_url: str) -> None:
    agent = agent_on(redis_url)
    found: dict[str, dict[str, int]] = {}

    @agent.node
    async def sets(cache):
        await cache.set("count", 0, ttl=LONG_SECONDS)
        await cache.increment("count")
        for key, value in (("list", []), ("dict", {}), ("claimed", [{"done": False}])):
            await cache.set(key, value, ttl=LONG_SECONDS)

    @agent.node
    async def changes(sets, cache):
        found["before"] = await asyncio.to_thread(ends, redis_url, "in-place")
        await cache.increment("count")
        await cache.append("list", 1)
        await cache.update("dict", {"a": 1})
        claimed = await cache.claim("claimed")
        claimed.set(done=True)

    outcome = run(agent.run_task(task(), run_id="in-place"))

    assert sorted(found["before"]) == ["claimed", "count", "dict", "list"]
    assert ends(redis_url, "in-place") == found["before"], "keys of a run that is over stay as they are"
    assert outcome["count"] == 2
    assert outcome["claimed"] == [{"done": True}]


def test_module_run_that_has_read_a_key_is_repeated_when_the_key_ends(redis_url: str) -> None:
    agent = agent_on(redis_url)
    reads: list[str] = []

    @agent.node
    async def sets(cache):
        await cache.set("key", "value", ttl=SHORT_SECONDS)

    @agent.node(max_retries=1)
    async def reader(sets, cache):
        reads.append(await cache.get("key", MISSING))
        await gone(cache, "key")
        return reads[-1]

    outcome = run(agent.run_task(task(), run_id="reader"))

    assert outcome.status is RunStatus.COMPLETE
    # On a slow machine it has ended before the first look.
    assert reads in (["value", MISSING], [MISSING])
    assert outcome["reader"] == MISSING


def test_immediate_sets_and_items_of_maps_have_keys_end(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def at_once(cache):
        await cache.set("progress", 1, ttl=SHORT_SECONDS, immediate=True)
        await gone(cache, "progress")

    @agent.node(map_over="numbers")
    async def each(number, cache):
        await cache.set(f"item_{number}", number, ttl=SHORT_SECONDS)
        return number

    @agent.node
    async def after(each, at_once, cache):
        for number in range(5):
            await gone(cache, f"item_{number}")

    run(agent.run_task(task(), state={"numbers": [*range(5)]}, run_id="items"))

    expired = [event.key for event in stored_events(redis_url, "items") if isinstance(event, KeyExpired)]
    assert sorted(expired) == [*(f"item_{number}" for number in range(5)), "progress"]


@pytest.mark.parametrize(
    "ttl",
    [0, -1, math.inf, math.nan, "5", True, 10**400],
    ids=["0", "-1", "inf", "nan", "text", "bool", "huge"],
)
def test_ttl_that_is_no_duration_is_refused(redis_url: str, ttl: Any) -> None:
    agent = agent_on(redis_url)

    @agent.node(max_retries=1)
    async def sets(cache):
        await cache.set("key", 1, ttl=ttl)

    outcome = run(agent.run_task(task()))

    assert outcome.status is RunStatus.FAILED
    (failure,) = outcome.failures
    assert failure.error.startswith("InvalidSetting: ttl")
    assert "above 0" in failure.error


def test_ttl_longer_than_any_clock_keeps_the_key(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def sets(cache):
        await cache.set("key", 1, ttl=1e300)

    @agent.node
    async def reads(sets, cache):
        return await cache.get("key")

    assert run(agent.run_task(task()))["reads"] == 1


def waiting_agent(url: str, ttl: float, seen: list[Any]) -> Agent:
    agent = agent_on(url)

    @agent.node
    async def sets(cache):
        await cache.set("key", "value", ttl=ttl)

    @agent.node
    async def asks(sets, cache):
        await cache.wait_for_signal("go")
        seen.append(await cache.get("key", MISSING))

    return agent


def test_run_that_waits_for_a_signal_is_suspended_although_a_key_is_to_end(redis_url: str) -> None:
    agent = waiting_agent(redis_url, LONG_SECONDS, [])

    outcome = run(asyncio.wait_for(agent.run_task(task(), run_id="suspended"), 60))

    assert outcome.status is RunStatus.SUSPENDED
    assert list(ends(redis_url, "suspended")) == ["key"]


def test_key_that_ended_while_nobody_drove_the_run_is_deleted_first_on_resume(redis_url: str) -> None:
    seen: list[Any] = []

    async def main() -> None:
        agent = waiting_agent(redis_url, LONG_SECONDS, seen)
        assert (await agent.run_task(task(), run_id="resumed")).status is RunStatus.SUSPENDED
        pass_time(redis_url, "gf:run:{resumed}:expiring", "key")
        assert (await agent.state("resumed"))["key"] == "value", "nobody deletes it meanwhile"
        assert (await agent.resume("resumed")).status is RunStatus.SUSPENDED
        assert "key" not in await agent.state("resumed")
        await agent.signal("resumed", "go", None)
        await agent.resume("resumed")

    run(main())

    assert seen == [MISSING]


def test_key_whose_time_has_not_come_is_there_for_who_resumes_the_run(redis_url: str) -> None:
    seen: list[Any] = []

    async def main() -> None:
        agent = waiting_agent(redis_url, LONG_SECONDS, seen)
        await agent.run_task(task(), run_id="ends-early")
        before = ends(redis_url, "ends-early")
        await agent.signal("ends-early", "go", None)
        await agent.resume("ends-early")
        assert ends(redis_url, "ends-early") == before

    run(main())

    assert seen == ["value"]


def test_fork_deletes_first_what_has_ended_since(redis_url: str) -> None:
    agent = agent_on(redis_url)
    seen: list[Any] = []

    @agent.node(snapshot=SnapshotControl.ALWAYS)
    async def sets(cache):
        await cache.set("short", "value", ttl=LONG_SECONDS)
        await cache.set("long", "value", ttl=LONG_SECONDS)

    @agent.node(max_retries=1)
    async def fails(sets, cache):
        seen.append([await cache.get(key, MISSING) for key in ("short", "long")])
        raise ValueError("broken")

    async def main() -> None:
        assert (await agent.run_task(task(), run_id="parent")).status is RunStatus.FAILED
        pass_time(redis_url, "gf:run:{parent}:expiring", "short")
        pass_time(redis_url, "gf:run:{parent}:snapshot:1:expiring", "short")
        for at, child in ((None, "end"), (1, "snapshot")):
            await agent.fork("parent", at, run_id=child)
            assert ends(redis_url, child) == {"long": ends(redis_url, "parent")["long"]}
            expired = [
                event.key for event in stored_events(redis_url, child) if isinstance(event, KeyExpired)
            ]
            assert expired == ["short"]

    run(main())

    assert seen == [["value", "value"], [MISSING, "value"], [MISSING, "value"]]


def test_ends_of_keys_leave_with_the_run(redis_url: str) -> None:
    agent = agent_on(redis_url, auto_snapshot=True)

    @agent.node
    async def sets(cache):
        await cache.set("key", 1, ttl=LONG_SECONDS)

    @agent.node
    async def last(sets):
        return 1

    run(agent.run_task(task(), run_id="ends-kept"))

    names = {"gf:run:{ends-kept}:expiring", "gf:run:{ends-kept}:snapshot:1:expiring"}
    assert names <= {*keys_of_run(redis_url, "ends-kept")}
    with client(redis_url) as connection:
        assert all(connection.pttl(key) > 0 for key in keys_of_run(redis_url, "ends-kept"))
    run(agent.delete("ends-kept"))
    assert keys_of_run(redis_url, "ends-kept") == []


def test_run_that_waits_for_what_nobody_sends_fails_although_a_key_is_to_end(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def sets(cache):
        await cache.set("key", 1, ttl=LONG_SECONDS)

    @agent.node
    async def waits(sets, cache):
        await cache.get_message("nobody")

    outcome = run(asyncio.wait_for(agent.run_task(task(), run_id=RunId("stalled")), 60))

    assert outcome.status is RunStatus.FAILED
    assert "nobody" in (outcome.error or "")
