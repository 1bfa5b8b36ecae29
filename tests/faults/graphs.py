"""The two graphs that the fault tests kill: every run of a body is noted in a file outside Redis.

Both double the numbers of the task, three at a time; `naive` lets processors take the first pending subtask, `map`
has one durable record per item.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from graphflow.agent import Agent
from graphflow.caches.redis_cache import RedisCache
from graphflow.graph.tasks import Task
from tests import parallel_agent

Form = Literal["naive", "map"]

FORMS: tuple[Form, ...] = ("naive", "map")
CHUNK_SIZE = 3
#: Numbers in the task of each form: 5 subtasks, 16 items.
COUNTS: dict[Form, int] = {"naive": 15, "map": 48}
#: Seconds that one item takes.
DELAYS: dict[Form, float] = {"naive": 0.03, "map": 0.04}
#: The nodes of each form; those that are maps.
NODES: dict[Form, tuple[str, ...]] = {
    "naive": ("flow_control", "splitter", "processor_0", "processor_1", "processor_2", "aggregator"),
    "map": ("chunks", "double", "combine"),
}
MAPS: dict[Form, tuple[str, ...]] = {"naive": (), "map": ("double",)}
#: The node that puts the results together, and the state key that holds them.
AGGREGATES: dict[Form, tuple[str, str]] = {
    "naive": ("aggregator", "final_results"),
    "map": ("combine", "combine"),
}


def task_of(form: Form) -> Task:
    return Task(type="numbers", objective="double them", params={"data": list(range(COUNTS[form]))})


def items_of(form: Form) -> int:
    return COUNTS[form] // CHUNK_SIZE


def answer_of(form: Form) -> list[int]:
    return [number * 2 for number in range(COUNTS[form])]


def agent_of(
    form: Form,
    url: str,
    log: Path,
    *,
    delay: float | None = None,
    lease_seconds: float = 10.0,
    extra_node: bool = False,
) -> Agent:
    """The agent of a form. `extra_node` makes another graph of it, which a run of the first must refuse."""
    build = naive_agent if form == "naive" else map_agent
    agent = build(url, log, DELAYS[form] if delay is None else delay, lease_seconds)
    if extra_node:
        agent.node(_extra)
    return agent


def naive_agent(url: str, log: Path, delay: float, lease_seconds: float) -> Agent:
    class NotingProcessor(parallel_agent.ParallelProcessor):
        async def work(self, subtask: dict[str, Any]) -> list[int]:
            note(log, subtask["id"].removeprefix("subtask_"))
            return await super().work(subtask)

    return parallel_agent.naive_agent(
        url, processor=NotingProcessor, delay=delay, lease_seconds=lease_seconds
    )


def map_agent(url: str, log: Path, delay: float, lease_seconds: float) -> Agent:
    agent = Agent(cache=RedisCache(url), name="victim", lease_seconds=lease_seconds)

    @agent.node
    def chunks(task: Task) -> list[list[int]]:
        data = task.params["data"]
        return [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]

    @agent.node(map_over="chunks", max_concurrency=4)
    async def double(chunk: list[int], index: int) -> list[int]:
        note(log, str(index))
        await asyncio.sleep(delay)
        return [number * 2 for number in chunk]

    @agent.node
    def combine(double: list[list[int]]) -> list[int]:
        return [number for part in double for number in part]

    return agent


def _extra(task: Task) -> None:
    """A node that nothing waits for."""


def note(log: Path, item: str) -> None:
    """One line, whole or not at all, whichever processes write at the same time."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{item} {os.getpid()}\n".encode())
    finally:
        os.close(file)


def executions(log: Path) -> Counter[int]:
    """How often each item's body was begun."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(int(line.split()[0]) for line in lines)
