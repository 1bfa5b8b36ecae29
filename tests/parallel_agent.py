"""The split-process-aggregate agent as a naive author writes it: every processor takes the first pending subtask."""

from __future__ import annotations

import asyncio
from typing import Any

from graphflow.caches.redis_cache import RedisCache
from graphflow.graph import (
    Agent,
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleType,
    Node,
    NodeConfig,
)
from graphflow.graph.tasks import Task

CHUNK_SIZE = 3
PENDING = "subtasks != null and len([st for st in subtasks if st['status'] == 'pending']) > 0"
ALL_DONE = "len(completed_subtasks) == len(subtasks)"


class TaskSplitter(AgentModule):
    name = "splitter"
    type = ModuleType.PLANNER

    async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
        task = await cache.get("task")
        data = task.params["data"]
        subtasks = [
            {"id": f"subtask_{number}", "data": data[start : start + CHUNK_SIZE], "status": "pending"}
            for number, start in enumerate(range(0, len(data), CHUNK_SIZE))
        ]
        await cache.set("subtasks", subtasks)
        await cache.set("completed_subtasks", [])
        return {"status": "success", "result": f"{len(subtasks)} subtasks"}


class ParallelProcessor(AgentModule):
    name = "processor"
    type = ModuleType.EXECUTOR
    delay: float = 0

    async def work(self, subtask: dict[str, Any]) -> list[int]:
        return [number * 2 for number in subtask["data"]]

    async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
        subtasks = await cache.get("subtasks")
        pending = [subtask for subtask in subtasks if subtask["status"] == "pending"]
        if not pending:
            return {"status": "success", "result": "nothing pending"}
        subtask = pending[0]
        if self.delay:
            await asyncio.sleep(self.delay)
        subtask["results"] = await self.work(subtask)
        subtask["status"] = "completed"
        await cache.set("subtasks", subtasks)
        completed = await cache.get("completed_subtasks")
        completed.append(subtask)
        await cache.set("completed_subtasks", completed)
        return {"status": "success", "result": subtask["id"]}


class ResultAggregator(AgentModule):
    name = "aggregator"
    type = ModuleType.EXECUTOR

    async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
        completed = await cache.get("completed_subtasks")
        final = []
        for subtask in completed:
            final.extend(subtask["results"])
        await cache.set("final_results", final)
        await cache.set("total_items_processed", len(final))
        return {"status": "success", "result": len(final)}


def naive_agent(
    url: str,
    *,
    processor: type[ParallelProcessor] = ParallelProcessor,
    delay: float = 0,
    max_total_iterations: int = 50,
    lease_seconds: float = 10,
    max_retries: int = 2,
) -> Agent:
    """The agent of the parallel walkthrough in its naive form."""
    agent = Agent(
        cache=RedisCache(url),
        max_concurrent_tasks=3,
        max_total_iterations=max_total_iterations,
        lease_seconds=lease_seconds,
    )
    names = [f"processor_{number}" for number in range(3)]
    agent.add_node(
        Node(
            name="flow_control",
            type=ModuleType.FLOW_CONTROL,
            modules=[
                FlowControlModule(
                    flow_config=FlowControlConfig(
                        decisions=[
                            *(FlowDecision(next_node=name, condition=PENDING) for name in names),
                            FlowDecision(next_node="aggregator", condition=ALL_DONE),
                        ],
                        default="splitter",
                    )
                )
            ],
        )
    )
    agent.add_node(
        Node(
            name="splitter",
            type=ModuleType.PLANNER,
            modules=[TaskSplitter()],
            node_config=NodeConfig(max_retries=max_retries),
        )
    )
    for name in names:
        agent.add_node(
            Node(
                name=name,
                type=ModuleType.EXECUTOR,
                modules=[processor(delay=delay)],
                dependencies=["splitter"],
                node_config=NodeConfig(max_retries=max_retries),
            )
        )
    agent.add_node(
        Node(
            name="aggregator",
            type=ModuleType.EXECUTOR,
            modules=[ResultAggregator()],
            dependencies=names,
            node_config=NodeConfig(condition=ALL_DONE),
        )
    )
    return agent


def numbers(count: int | None) -> Task:
    data = None if count is None else list(range(count))
    return Task(type="numbers", objective="double them", params={"data": data})
