"""Keys that end take part in the order: module runs and ends of keys, one after another as they were committed, leave the
state that the run has, and let every module run see what it saw."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from graphflow import Agent, Task
from graphflow.codec import encode
from graphflow.events import Event, KeyExpired, NodeSucceeded
from graphflow.graph.cache import Cache
from graphflow.ids import RunId
from graphflow.state.transaction import Transaction
from graphflow.testing import MemoryCache, TurnedClock
from tests.helpers_state import MemoryState

RUN = RunId("run")
#: A step of a random program: the operation, its key, the seconds that it has the key end in (0: none), a wait after it.
STEPS = st.tuples(
    st.sampled_from(["get", "get", "exists", "keys", "set", "set", "append", "delete", "clear"]),
    st.sampled_from("abc"),
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
PROGRAMS = st.lists(st.lists(STEPS, min_size=1, max_size=6), min_size=2, max_size=5)


def program(
    number: int, steps: list[tuple[str, str, int, float]], pause: Callable[[float], Awaitable[None]]
) -> Callable[[Cache], Awaitable[list[Any]]]:
    """What is written does not depend on the time, and what was seen is returned."""

    async def body(cache: Cache) -> list[Any]:
        seen: list[Any] = []
        for operation, key, ttl, seconds in steps:
            match operation:
                case "get":
                    seen.append(await cache.get(key, "missing"))
                case "exists":
                    seen.append(await cache.exists(key))
                case "keys":
                    seen.append(await cache.keys())
                case "set":
                    await cache.set(key, [number], ttl=ttl or None)
                case "append":
                    await cache.append(key, len(seen))
                case "delete":
                    await cache.delete(key)
                case "clear":
                    await cache.clear()
            await pause(seconds)
        return seen

    return body


@given(PROGRAMS, st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=5, max_size=5))
def test_module_runs_and_ends_of_keys_equal_their_replay_in_commit_order(
    programs: list[list[tuple[str, str, int, float]]], delays: list[float]
) -> None:
    memory = MemoryCache()
    agent = Agent(cache=memory)
    for number, steps in enumerate(programs):
        body = program(number, steps, asyncio.sleep)

        def made(body: Any = body, delay: float = delays[number]) -> Callable[[Cache], Awaitable[list[Any]]]:
            async def node(cache: Cache) -> list[Any]:
                await asyncio.sleep(delay)
                result: list[Any] = await body(cache)
                return result

            return node

        agent.node(name=f"node{number}")(made())

    outcome = TurnedClock().run(agent.run_task(Task(type="test"), state={"a": [9]}, run_id=RUN))

    stored = memory.memory.runs[RUN]
    state, ends = MemoryState(a=[9]), {}
    for event in stored.events:
        replay(event, state, ends, programs, outcome)
    assert state.values() == {key: outcome[key] for key in outcome}
    assert stored.run.expiring == ends


def replay(
    event: Event,
    state: MemoryState,
    ends: dict[str, float],
    programs: list[list[tuple[str, str, int, float]]],
    outcome: Any,
) -> None:
    """Do to the state what the event says was committed."""
    if isinstance(event, KeyExpired):
        assert event.at >= ends.pop(event.key), "not before its time"
        assert event.key in state.texts
        state.change({event.key: None})
    elif isinstance(event, NodeSucceeded):
        number = int(event.node.removeprefix("node"))
        writes, ttls, seen = alone(state, number, programs[number])
        assert seen == outcome.node_results[event.node].result
        for key, text in writes.items():
            if text is None or key not in ttls:
                ends.pop(key, None)
            elif (ttl := ttls[key]) is not None:
                ends[key] = event.at + 1000 * ttl
        state.expiring = {*ends}
        state.change({key: text for key, text in writes.items() if text != state.texts.get(key)})
        state.change({event.node: encode(seen)})


def alone(
    state: MemoryState, number: int, steps: list[tuple[str, str, int, float]]
) -> tuple[dict[str, str | None], dict[str, float | None], list[Any]]:
    async def at_once(seconds: float) -> None:
        return None

    transaction = Transaction(state)
    seen = asyncio.run(_awaited(program(number, steps, at_once)(transaction)))
    try:
        return transaction.resolve(state), transaction.resolve_ttls(state), seen
    finally:
        transaction.close()


async def _awaited(awaitable: Awaitable[list[Any]]) -> list[Any]:
    return await awaitable
