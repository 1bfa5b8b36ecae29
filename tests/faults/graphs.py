"""The graphs that the fault tests kill: every run of a body is noted in a file outside Redis.

All double the numbers of the task, three at a time; `naive` lets processors take the first pending subtask, `map`
has one durable record per item. In `generator` and `seeking` the items of the map come from a generator, the second of
which leaves out by itself what was taken before a crash. In `counting` all items of a map also count in one key of the state,
so that they lose conflicts and wait for each other. Each body passes the failpoint `body.running` when it is
noted, a generator `source.running` before each element.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graphflow.agent import Agent
from graphflow.failpoints import failpoint
from graphflow.graph.cache import Cache
from graphflow.graph.tasks import Task
from graphflow.store.cache import RedisCache
from tests import parallel_agent

Form = Literal["naive", "map", "generator", "seeking", "counting"]
Order = Literal["together", "forwards", "backwards"]

FORMS: tuple[Form, ...] = ("naive", "map")
GENERATOR_FORMS: tuple[Form, ...] = ("generator", "seeking")
ALL_FORMS: tuple[Form, ...] = (*FORMS, *GENERATOR_FORMS, "counting")
#: Those whose bodies are repeated after a conflict: nothing bounds how often they run.
REPEATING_FORMS: tuple[Form, ...] = ("naive", "counting")
#: The key in which the items of the form `counting` count.
COUNTED = "counted"
CHUNK_SIZE = 3
#: Something in the task that no process may log.
PAYLOAD = "not-to-be-logged"
#: What a process exits with that met a poisonous item.
POISONED = 7
#: Attempts that a body has: no infrastructure fault may use up one.
ATTEMPTS = 2
#: Those of the graph whose bodies fail: a processor may meet each failing item in one visit.
ATTEMPTS_OF_FAILING = 5
#: Numbers in the task of each form: 5 subtasks, 16 items.
COUNTS: dict[Form, int] = {"naive": 15, "map": 48, "generator": 48, "seeking": 48, "counting": 48}
#: Seconds that one item takes.
DELAYS: dict[Form, float] = {"naive": 0.03, "map": 0.04, "generator": 0.04, "seeking": 0.04, "counting": 0.01}
#: Seconds between two elements of a generator: it goes on while items run.
PAUSE_SECONDS = 0.008
#: The nodes of each form; those that are maps.
NODES: dict[Form, tuple[str, ...]] = {
    "naive": ("flow_control", "splitter", "processor_0", "processor_1", "processor_2", "aggregator"),
    "map": ("chunks", "double", "combine"),
    "generator": ("double", "combine"),
    "seeking": ("double", "combine"),
    "counting": ("chunks", "double", "combine"),
}
MAPS: dict[Form, tuple[str, ...]] = {
    "naive": (),
    "map": ("double",),
    "generator": ("double",),
    "seeking": ("double",),
    "counting": ("double",),
}
#: The node that puts the results together, and the state key that holds them.
AGGREGATES: dict[Form, tuple[str, str]] = {
    "naive": ("aggregator", "final_results"),
    "map": ("combine", "combine"),
    "generator": ("combine", "combine"),
    "seeking": ("combine", "combine"),
    "counting": ("combine", "combine"),
}


def task_of(form: Form) -> Task:
    return Task(
        type="numbers", objective="double them", params={"data": list(range(COUNTS[form])), "note": PAYLOAD}
    )


def items_of(form: Form) -> int:
    return COUNTS[form] // CHUNK_SIZE


def answer_of(form: Form) -> list[int]:
    return [number * 2 for number in range(COUNTS[form])]


@dataclass(frozen=True, slots=True)
class Body:
    """What a body does besides its work. `delay` is seconds."""

    log: Path
    delay: float
    #: Every second item fails the first time it runs.
    fails_once: bool = False
    #: In which order items end that start together.
    order: Order = "together"
    #: The item that kills its process each time.
    poison: int | None = None

    async def run(self, item: int) -> None:
        note(self.log, str(item))
        failpoint("body.running")
        if self.fails_once and item % 2 == 0 and executions(self.log)[item] == 1:
            raise ConnectionError("the first time it fails")
        turn = {"together": 0, "forwards": item % 4, "backwards": 3 - item % 4}[self.order]
        await asyncio.sleep(self.delay * (1 + turn / 2))
        if item == self.poison:
            os._exit(POISONED)


def agent_of(
    form: Form,
    url: str,
    log: Path,
    *,
    delay: float | None = None,
    lease_seconds: float = 10.0,
    extra_node: bool = False,
    fails_once: bool = False,
    order: Order = "together",
    poison: int | None = None,
) -> Agent:
    """The agent of a form. `extra_node` makes another graph of it, which a run of the first must refuse."""
    body = Body(log, DELAYS[form] if delay is None else delay, fails_once, order, poison)
    if form == "naive":
        agent = naive_agent(url, body, lease_seconds)
    elif form in ("map", "counting"):
        agent = map_agent(url, body, lease_seconds, counts=form == "counting")
    else:
        agent = generator_agent(url, body, lease_seconds, seeks=form == "seeking")
    if extra_node:
        agent.node(_extra)
    return agent


def naive_agent(url: str, body: Body, lease_seconds: float) -> Agent:
    class NotingProcessor(parallel_agent.ParallelProcessor):
        async def work(self, subtask: dict[str, Any]) -> list[int]:
            await body.run(int(subtask["id"].removeprefix("subtask_")))
            return await super().work(subtask)

    return parallel_agent.naive_agent(
        url,
        processor=NotingProcessor,
        lease_seconds=lease_seconds,
        max_retries=ATTEMPTS_OF_FAILING if body.fails_once else ATTEMPTS,
    )


def map_agent(url: str, body: Body, lease_seconds: float, *, counts: bool = False) -> Agent:
    agent = Agent(cache=RedisCache(url), name="victim", lease_seconds=lease_seconds)

    @agent.node
    def chunks(task: Task) -> list[list[int]]:
        return chunks_of(task)

    if counts:
        _add_counting_double(agent, body)
        _add_combine(agent)
    else:
        _add_double_and_combine(agent, body, "chunks")
    return agent


def generator_agent(url: str, body: Body, lease_seconds: float, *, seeks: bool) -> Agent:
    agent = Agent(cache=RedisCache(url), name="victim", lease_seconds=lease_seconds)

    async def yielded(chunks: Sequence[list[int]]) -> AsyncIterator[list[int]]:
        for chunk in chunks:
            failpoint("source.running")
            await asyncio.sleep(PAUSE_SECONDS)
            yield chunk

    async def generator(task: Task) -> AsyncIterator[list[int]]:
        async for chunk in yielded(chunks_of(task)):
            yield chunk

    async def seeking(task: Task, start: int) -> AsyncIterator[list[int]]:
        note(starts_of(body.log), str(start))
        async for chunk in yielded(chunks_of(task)[start:]):
            yield chunk

    _add_double_and_combine(agent, body, seeking if seeks else generator)
    return agent


def chunks_of(task: Task) -> list[list[int]]:
    data = task.params["data"]
    return [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]


def _add_double_and_combine(agent: Agent, body: Body, source: str | Callable[..., Any]) -> None:
    @agent.node(map_over=source, max_concurrency=4, max_retries=ATTEMPTS)
    async def double(chunk: list[int], index: int) -> list[int]:
        await body.run(index)
        return [number * 2 for number in chunk]

    _add_combine(agent)


def _add_counting_double(agent: Agent, body: Body) -> None:
    @agent.node(map_over="chunks", max_concurrency=4, max_retries=ATTEMPTS)
    async def double(chunk: list[int], index: int, cache: Cache) -> list[int]:
        counted = await cache.get(COUNTED, 0)
        await body.run(index)
        await cache.set(COUNTED, counted + 1)
        return [number * 2 for number in chunk]


def _add_combine(agent: Agent) -> None:
    @agent.node
    def combine(double: list[list[int]]) -> list[int]:
        return [number for part in double for number in part]


def _extra(task: Task) -> None:
    """A node that nothing waits for."""


def note(log: Path, item: str) -> None:
    """One line, whole or not at all, whichever processes write at the same time."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{item} {os.getpid()}\n".encode())
    finally:
        os.close(file)


def starts_of(log: Path) -> Path:
    """Where the generator that seeks notes from which element it goes on, process by process."""
    return log.with_suffix(".starts")


def executions(log: Path) -> Counter[int]:
    """How often each item's body was begun."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(int(line.split()[0]) for line in lines)
