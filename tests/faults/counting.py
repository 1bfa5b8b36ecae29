"""A process to be killed that maps over many numbers: each execution of an item is one line in a file outside Redis.

    python -m tests.faults.counting URL RUN_ID COUNT LOG list|generator|seeking [--concurrency N]

Prints one line of JSON at the end: the status, and what all results add up to. `begun` is printed before the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphflow.agent import Agent
from graphflow.graph.tasks import Task
from graphflow.store.cache import RedisCache


def agent_of(url: str, count: int, log: Path, source: str, concurrency: int) -> Agent:
    agent = Agent(cache=RedisCache(url), name="counting", max_concurrent_tasks=concurrency, lease_seconds=5)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @agent.node
    def numbers() -> list[int]:
        return list(range(count))

    def generator(numbers: list[int]) -> Iterator[int]:
        yield from numbers

    def seeking(numbers: list[int], start: int) -> Iterator[int]:
        yield from numbers[start:]

    sources: dict[str, Any] = {"list": "numbers", "generator": generator, "seeking": seeking}

    @agent.node(map_over=sources[source], reduce=lambda left, right: left + right)
    async def double(number: int, index: int) -> int:
        os.write(file, f"{index}\n".encode())
        await asyncio.sleep(0)
        return 2 * number

    return agent


def executions(log: Path) -> Counter[int]:
    """How often each item has run."""
    return Counter(map(int, log.read_bytes().split())) if log.exists() else Counter()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("run_id")
    parser.add_argument("count", type=int)
    parser.add_argument("log", type=Path)
    parser.add_argument("source", choices=("list", "generator", "seeking"))
    parser.add_argument("--concurrency", type=int, default=50)
    options = parser.parse_args()
    agent = agent_of(options.url, options.count, options.log, options.source, options.concurrency)
    print("begun", flush=True)
    outcome = agent.run_task_sync(Task(type="numbers", objective="double them"), run_id=options.run_id)
    print(json.dumps({"status": outcome.status, "sum": outcome.get("double")}), flush=True)


if __name__ == "__main__":
    main()
