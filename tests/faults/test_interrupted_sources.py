"""Random walks over maps with generators: interrupted, resumed, their sources failing, on a store that takes its time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from graphflow import Agent
from graphflow.store.held_run import RedisHeldRun
from tests.acceptance.support import agent_on, task
from tests.helpers import run

#: Interruptions of one run, at most, and failures of its source.
MOST_STOPS = 4
MOST_FAILURES = 3
PATIENCE_SECONDS = 30


@dataclass
class Walk:
    """One run, drawn from its seed. Every tenth element is left out; what the items come to is joined in order."""

    seed: int
    calls: Counter[int] = field(default_factory=Counter)
    failures: int = 0

    def __post_init__(self) -> None:
        self.numbers = random.Random(self.seed)
        self.count = self.numbers.choice([0, 50, 999, 2_500, 5_000])
        self.batch_size = self.numbers.choice([None, 7, 1_000])
        self.slots = self.numbers.choice([20, 300])
        self.source = self.numbers.choice([self.seeking, self.anew])

    def agent(self, url: str) -> Agent:
        agent = agent_on(url, name="walk", max_concurrent_tasks=self.slots)
        agent.node(
            name="work",
            map_over=self.source,
            batch_size=self.batch_size,
            reduce=lambda left, right: left + right,
            where="index % 10 != 3",
            max_retries=MOST_FAILURES + 1,
        )(self.one if self.batch_size is None else self.many)
        agent.node(name="after", dependencies=["work"], condition="len(work) > 0")(lambda work: len(work))
        return agent

    async def seeking(self, start: int) -> AsyncIterator[int]:
        for number in self.elements(start):
            if number % 100 == 0:
                await asyncio.sleep(0.001)
            yield number

    def anew(self) -> Iterator[int]:
        yield from self.elements(0)

    def elements(self, start: int) -> Iterator[int]:
        for number in range(start, self.count):
            if self.failures < MOST_FAILURES and self.numbers.random() < 2 / self.count:
                self.failures += 1
                raise ConnectionError("cut off")
            yield number

    async def one(self, item: int) -> list[int]:
        await asyncio.sleep(self.numbers.random() / 100)
        self.calls[item] += 1
        return [item]

    async def many(self, items: list[int]) -> list[list[int]]:
        await asyncio.sleep(0.001)
        self.calls.update(items)
        return [[item] for item in items]

    async def run(self, url: str) -> int:
        """How often it was interrupted before it came to its end."""
        agent, run_id = self.agent(url), f"walk-{self.seed}"
        for stops in range(MOST_STOPS + 1):
            running = asyncio.create_task(agent.run_task(task(), run_id=run_id))
            # Not while it connects: that is asked elsewhere.
            patience = 0.1 + self.numbers.random() * 0.3 if stops < MOST_STOPS else PATIENCE_SECONDS
            await asyncio.wait([running], timeout=patience)
            if running.done():
                break
            running.cancel()
            await asyncio.wait([running])
        outcome = await running
        expected = [number for number in range(self.count) if number % 10 != 3]
        assert outcome["work"] == (expected or None), self
        assert outcome.get("after") == (len(expected) or None), self
        assert set(self.calls) == set(expected), self
        assert max(self.calls.values(), default=0) <= 1 + stops, self
        return stops


@pytest.mark.parametrize("runs", [8, pytest.param(200, marks=pytest.mark.long)])
def test_interrupted_map_over_a_generator_comes_to_its_right_end(
    runs: int, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = RedisHeldRun.commit

    async def slow(self: RedisHeldRun, *args: Any, **options: Any) -> Any:
        await asyncio.sleep(random.random() / 100)
        reply = await commit(self, *args, **options)
        await asyncio.sleep(random.random() / 100)
        return reply

    monkeypatch.setattr(RedisHeldRun, "commit", slow)
    first = random.randrange(1 << 32)
    print(f"seeds from {first}")

    stops = sum(run(Walk(seed).run(redis_url)) for seed in range(first, first + runs))

    print(f"{runs} of {runs} right, {stops} interruptions")


@pytest.mark.parametrize("batch_size", [None, 10])
def test_source_that_fails_when_its_last_page_is_being_stored_is_tried_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, batch_size: int | None
) -> None:
    """The items that it has yielded make no whole batch, so that nothing but the failure can bring the next turn about."""
    commit = RedisHeldRun.commit

    async def slow(self: RedisHeldRun, *args: Any, **options: Any) -> Any:
        await asyncio.sleep(0.02)
        return await commit(self, *args, **options)

    monkeypatch.setattr(RedisHeldRun, "commit", slow)
    agent = agent_on(redis_url)
    tries: list[int] = []

    async def numbers(start: int) -> AsyncIterator[int]:
        tries.append(start)
        for number in range(start, 7):
            # The second page gathers while the first one is being stored, and the failure with it.
            await asyncio.sleep(0 if number else 0.01)
            yield number
        if len(tries) == 1:
            raise ConnectionError("cut off")

    @agent.node(map_over=numbers, batch_size=batch_size, max_retries=2)
    async def work(item: Any) -> Any:
        return item

    outcome = run(asyncio.wait_for(agent.run_task(task()), PATIENCE_SECONDS))

    assert outcome["work"] == list(range(7))
    # The last item that is stored is asked for once more.
    assert tries == [0, 6]
