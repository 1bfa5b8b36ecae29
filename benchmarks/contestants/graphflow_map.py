"""graphflow: a map with a record for each item, and a chain of nodes with a commit for each.

Form `generator` has the items from an async generator instead of a list in the state; so has `memory`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from benchmarks.occasion import Occasion
from benchmarks.workloads import PROCESSORS
from graphflow import Agent, AgentModule, Node, RedisCache, RunResult, Task

#: Items in flight at a time; more do not make no-op items faster. Those of `io` are all in flight at once.
WIDTH = 1_000
#: Threads at most.
THREADS = 100


async def each_item(occasion: Occasion) -> int:
    return await _map(occasion, WIDTH)


async def io(occasion: Occasion) -> int:
    return await _map(occasion, occasion.count)


async def sync(occasion: Occasion) -> int:
    return await _map(occasion, THREADS)


async def seven(occasion: Occasion) -> int:
    return await _map(occasion, PROCESSORS)


async def cpu(occasion: Occasion) -> int:
    """In threads, which share one interpreter: what this costs without a process for each processor."""
    return await _map(occasion, PROCESSORS)


async def memory(occasion: Occasion) -> int:
    agent = _agent(occasion, WIDTH, rows)

    @agent.node(dependencies=["results"])
    async def total(cache: Any) -> int:
        sum_of_results = 0
        async for _, result in cache.results("results"):
            sum_of_results += result
        return sum_of_results

    return await _timed(occasion, agent)


async def chain(occasion: Occasion) -> int:
    """Its time includes compiling and storing the graph; `run_seconds` is without."""
    await _chain(occasion, 2).run_task(Task(type="warm-up"))
    agent = _chain(occasion, occasion.count)
    with occasion.timed():
        outcome = await agent.run_task(Task(type="chain"))
    occasion.more["run_seconds"] = round(outcome.seconds, 5)
    return int(outcome["steps"])


class Step(AgentModule):
    async def process(self, cache: Any, semaphore: Any) -> None:
        await cache.set("steps", await cache.get("steps", 0) + 1)


def _chain(occasion: Occasion, nodes: int) -> Agent:
    agent = Agent(cache=RedisCache(occasion.server.unix_url), max_total_iterations=nodes)
    for number in range(nodes):
        before = [f"step_{number - 1}"] if number else []
        agent.add_node(Node(name=f"step_{number}", modules=[Step()], dependencies=before))
    return agent


async def _map(occasion: Occasion, width: int) -> int:
    agent = _agent(occasion, width, rows if occasion.form == "generator" else "items")

    @agent.node
    def total(results: list[Any]) -> int:
        return occasion.total(results)

    return await _timed(occasion, agent)


async def rows(task: Task, start: int = 0) -> AsyncIterator[int]:
    for item in range(start, task.params["count"]):
        yield item


def _agent(occasion: Occasion, width: int, source: Any) -> Agent:
    agent = Agent(cache=RedisCache(occasion.server.unix_url), max_concurrent_tasks=width)
    agent.node(name="results", map_over=source)(occasion.body)
    return agent


async def _timed(occasion: Occasion, agent: Agent) -> int:
    with_list = agent.nodes["results"].node_config.map_over == "items"

    async def run(items: range) -> RunResult:
        state = {"items": list(items)} if with_list else None
        return await agent.run_task(Task(type="items", params={"count": len(items)}), state=state)

    await run(occasion.warm_up_items)
    with occasion.timed():
        outcome = await run(occasion.items)
    return int(outcome["total"])
