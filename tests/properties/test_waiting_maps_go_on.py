"""Maps whose items wait for signals, over sources of all kinds: however few items fit into the window and however the
answers come, the run is suspended each time it has nothing else to do, and comes to its end with the last answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphflow import Agent, RunStatus
from graphflow.engine.maps import feed
from graphflow.rules import pages
from graphflow.testing import MemoryCache
from tests.acceptance.support import task

SECONDS = 60


@dataclass(frozen=True)
class Spec:
    items: int
    slots: int
    window: int
    ahead: int
    source: str
    #: Items of the first and of the second map that wait are those whose index leaves no rest by these; 0 for none.
    first: int
    second: int
    #: Answers between one suspension and the next resume.
    answers: int
    seeks: bool


def specs() -> st.SearchStrategy[Spec]:
    return st.builds(
        Spec,
        items=st.integers(0, 20),
        slots=st.sampled_from([1, 2, 5]),
        window=st.integers(1, 8),
        ahead=st.integers(1, 5),
        source=st.sampled_from(["state", "generator", "pauses"]),
        first=st.integers(0, 3),
        second=st.integers(0, 3),
        answers=st.integers(1, 6),
        seeks=st.booleans(),
    )


def agent_for(spec: Spec) -> Agent:
    agent = Agent(cache=MemoryCache(), name="waiting", max_concurrent_tasks=spec.slots)

    async def elements() -> AsyncIterator[int]:
        for number in range(spec.items):
            yield number
            if spec.source == "pauses":
                await asyncio.sleep(0.001)

    async def elements_from(start: int) -> AsyncIterator[int]:
        for number in range(start, spec.items):
            yield number

    source: Any = "numbers" if spec.source == "state" else elements_from if spec.seeks else elements

    @agent.node(map_over=source)
    async def first(item: int, cache: Any) -> int:
        if spec.first and not item % spec.first:
            assert await cache.wait_for_signal(f"first-{item}") == item
        return item

    @agent.node(map_over="first", pipelined=True)
    async def second(item: int, cache: Any) -> int:
        if spec.second and not item % spec.second:
            assert await cache.wait_for_signal(f"second-{item}") == item
        return item

    return agent


async def check(spec: Spec) -> None:
    agent = agent_for(spec)
    outcome = await agent.run_task(task(), state={"numbers": list(range(spec.items))}, run_id="waits")
    for _ in range(2 * spec.items + 1):
        if outcome.status is not RunStatus.SUSPENDED:
            break
        waits = [wait.signal for wait in await agent.cache.store().waits("waits")]
        assert waits, "somebody can answer"
        for name in waits[: spec.answers]:
            await agent.signal("waits", name, int(name.rpartition("-")[2]))
        outcome = await agent.resume("waits")
    assert outcome.status is RunStatus.COMPLETE, (outcome.error, outcome.failures)
    assert outcome["first"] == outcome["second"] == list(range(spec.items))


@settings(max_examples=max(100, settings.default.max_examples), suppress_health_check=list(HealthCheck))
@given(specs())
def test_random_maps_whose_items_wait_go_on_with_each_answer_to_their_end(spec: Spec) -> None:
    with patch.object(pages, "WINDOW_ITEMS", spec.window), patch.object(feed, "AHEAD_ITEMS", spec.ahead):
        asyncio.run(asyncio.wait_for(check(spec), SECONDS))
