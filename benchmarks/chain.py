"""A chain of no-op nodes, each stored before the next starts: `python -m benchmarks.chain [NODES [URL]]`."""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.report import report
from graphflow import Agent, AgentModule, Node, RedisCache, Task


class Step(AgentModule):
    async def process(self, cache: Any, semaphore: Any) -> int:
        return 1


def agent(cache: RedisCache, nodes: int) -> Agent:
    agent = Agent(cache=cache, max_total_iterations=nodes)
    for number in range(nodes):
        before = [f"step_{number - 1}"] if number else []
        agent.add_node(Node(name=f"step_{number}", modules=[Step()], dependencies=before))
    return agent


def main(nodes: int = 1_000, url: str = "embedded://") -> None:
    cache = RedisCache(url)
    agent(cache, 2).run_task_sync(Task(type="warm-up"))
    measured = agent(cache, nodes)
    begun = time.perf_counter()
    outcome = measured.run_task_sync(Task(type="chain"))
    seconds = time.perf_counter() - begun
    assert outcome.is_complete, outcome.error
    assert outcome.result == 1
    report("chain", nodes, seconds, run_seconds=round(outcome.seconds, 4))


if __name__ == "__main__":
    main(*(int(argument) if argument.isdigit() else argument for argument in sys.argv[1:]))  # type: ignore[arg-type]
