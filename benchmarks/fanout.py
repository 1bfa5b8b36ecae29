"""A durable map over no-op items: `python -m benchmarks.fanout [ITEMS [URL]]`."""

from __future__ import annotations

import sys
import time

from benchmarks.report import report
from graphflow import Agent, RedisCache, Task


def agent(url: str) -> Agent:
    agent = Agent(cache=RedisCache(url), max_concurrent_tasks=1_000)

    @agent.node(map_over="items")
    async def double(item: int) -> int:
        return 2 * item

    @agent.node
    def total(double: list[int]) -> int:
        return sum(double)

    return agent


def main(items: int = 10_000, url: str = "embedded://") -> None:
    measured = agent(url)
    measured.run_task_sync(Task(type="warm-up"), state={"items": list(range(100))})
    state = {"items": list(range(items))}
    begun = time.perf_counter()
    outcome = measured.run_task_sync(Task(type="fanout"), state=state)
    seconds = time.perf_counter() - begun
    assert outcome["total"] == items * (items - 1), outcome.error
    report("fanout", items, seconds)


if __name__ == "__main__":
    main(*(int(argument) if argument.isdigit() else argument for argument in sys.argv[1:]))  # type: ignore[arg-type]
