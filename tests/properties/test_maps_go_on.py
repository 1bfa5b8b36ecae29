"""Maps at random widths over items that want the same keys: after every turn something is in flight, or a timer is set,
or the run says why not; each item is committed exactly once, and no update is lost.

The first part is what `conftest.nothing_stands_still` sees to in every test.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphflow import Agent, RunStatus
from tests.acceptance.support import agent_on, task

KEYS = ["a", "b", "c"]
SECONDS = 60


@dataclass(frozen=True)
class Spec:
    """Two maps and a node beside each other. Each item does the `program` of its index, modulo their number."""

    items: int
    slots: int
    limit: int | None
    batch: int | None
    source: str
    programs: tuple[tuple[tuple[str, str], ...], ...]
    #: Items of which the first attempt fails.
    failing: frozenset[int]
    #: Items of a second map that counts in the same keys, and its limit.
    others: int
    other_limit: int | None
    #: The items of the second map each wait for a message that an item of the first one sends.
    messages: bool


def step() -> st.SearchStrategy[tuple[str, str]]:
    operations = ["count", "count", "count", "pause", "increment", "append", "claim", "keys"]
    return st.tuples(st.sampled_from(operations), st.sampled_from(KEYS))


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    items = draw(st.integers(0, 24))
    messages = draw(st.booleans())
    widths = st.none() | st.sampled_from([1, 2, 3, 5, 10, 20])
    programs = st.lists(st.lists(step(), min_size=1, max_size=5).map(tuple), min_size=1, max_size=3)
    return Spec(
        items,
        draw(st.sampled_from([1, 2, 3, 5, 20])),
        draw(widths),
        draw(st.none() | st.integers(1, 4)),
        draw(st.sampled_from(["state", "generator", "map", "pipelined"])),
        tuple(draw(programs)),
        draw(st.frozensets(st.integers(0, 23), max_size=3)),
        items if messages else draw(st.integers(0, 8)),
        draw(widths),
        messages,
    )


async def perform(cache: Any, steps: tuple[tuple[str, str], ...], times: int) -> None:
    """Do the steps, each counted as often as there are items in the batch."""
    for operation, key in steps:
        match operation:
            case "count":
                seen = await cache.get(f"count_{key}", 0)
                await asyncio.sleep(0)
                await cache.set(f"count_{key}", seen + times)
            case "increment":
                await cache.increment(f"sum_{key}", times)
            case "append":
                await cache.append(f"list_{key}", times)
            case "claim":
                claimed = await cache.claim("free", where={"key": key})
                if claimed is not None:
                    claimed.set(uses=claimed.item["uses"] + times)
            case "keys":
                await cache.keys()
            case "pause":
                await asyncio.sleep(0.001)


def agent_for(spec: Spec, url: str) -> Agent:
    """Each item of `first` comes to itself and the number of the program that was done for it."""
    agent = agent_on(url, max_concurrent_tasks=spec.slots)
    failed: set[int] = set()

    async def elements() -> AsyncIterator[int]:
        for number in range(spec.items):
            yield number

    @agent.node(map_over="numbers")
    def earlier(number: int) -> int:
        return number

    pipelined = spec.source == "pipelined"
    source = {"state": "numbers", "generator": elements, "map": "earlier", "pipelined": "earlier"}
    options: dict[str, Any] = {"batch_size": spec.batch} if spec.batch else {}

    @agent.node(
        map_over=source[spec.source],
        max_concurrency=spec.limit,
        pipelined=pipelined,
        max_retries=2,
        **options,
    )
    async def first(item: Any, cache: Any) -> Any:
        members = item if spec.batch else [item]
        chosen = members[0] % len(spec.programs)
        await perform(cache, spec.programs[chosen], len(members))
        for member in members:
            if spec.messages:
                await cache.publish_to_mailbox("box", member)
        if members[0] in spec.failing - failed:
            failed.add(members[0])
            raise ValueError("the first attempt fails")
        return [(member, chosen) for member in members] if spec.batch else (members[0], chosen)

    @agent.node(map_over="others", max_concurrency=spec.other_limit)
    async def second(item: int, cache: Any) -> Any:
        seen = await cache.get("count_a", 0)
        message = await cache.get_message("box") if spec.messages else None
        seen = await cache.get("count_a", 0)
        await cache.set("count_a", seen + 1)
        return message

    @agent.node
    async def beside(cache: Any) -> None:
        for key in KEYS:
            seen = await cache.get(f"count_{key}", 0)
            await asyncio.sleep(0)
            await cache.set(f"count_{key}", seen + 1)

    return agent


def check(spec: Spec, url: str) -> None:
    agent = agent_for(spec, url)
    state = {
        "numbers": list(range(spec.items)),
        "others": list(range(spec.others)),
        "free": [{"key": key, "uses": 0} for key in KEYS],
    }

    outcome = asyncio.run(asyncio.wait_for(agent.run_task(task(), state=state), SECONDS))

    assert outcome.status is RunStatus.COMPLETE, (outcome.error, outcome.failures)
    assert [member for member, _ in outcome["first"]] == list(range(spec.items))
    assert len(outcome["second"]) == spec.others
    if spec.messages:
        assert sorted(outcome["second"]) == list(range(spec.items))
    expected = Counter(
        f"{operation}_{key}" for _, chosen in outcome["first"] for operation, key in spec.programs[chosen]
    )
    for key in KEYS:
        beside = 1 + (spec.others if key == "a" else 0)
        assert outcome.get(f"count_{key}", 0) == expected[f"count_{key}"] + beside
        assert outcome.get(f"sum_{key}", 0) == expected[f"increment_{key}"]
        assert sum(outcome.get(f"list_{key}", [])) == expected[f"append_{key}"]


@settings(max_examples=max(200, settings.default.max_examples), suppress_health_check=list(HealthCheck))
@given(specs())
def test_random_maps_that_want_the_same_keys_go_on_to_their_end(redis_url: str, spec: Spec) -> None:
    check(spec, redis_url)
