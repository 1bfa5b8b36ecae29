"""The API as users type it. mypy --strict checks this file; nothing runs it."""

from __future__ import annotations

import asyncio
from typing import Any, assert_type

from graphflow import (
    END,
    Agent,
    AgentModule,
    Cache,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleConfig,
    ModuleType,
    Node,
    NodeConfig,
    RedisCache,
    RunResult,
    RunStatus,
    Task,
)


async def ask(question: str) -> str:
    return question


class Doubler(AgentModule):
    name: str = "doubler"
    factor: int = 2

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> dict[str, Any]:
        numbers = await cache.get("numbers")
        await cache.set("doubled", [number * self.factor for number in numbers])
        claimed = await cache.claim("jobs", where={"status": "pending"})
        if claimed is not None:
            claimed.set(status="done")
        await cache.append("log", "doubled")
        assert_type(await cache.step("ask", ask, "why"), str)
        assert_type(await cache.step("count", len, "why", key="why"), int)
        await cache.publish_to_mailbox("log", {"n": 1})
        assert_type(await cache.get_message("log", timeout=1.5), Any)
        assert_type(await cache.wait_for_signal("go"), Any)
        return {"status": "success", "result": len(numbers)}


agent = Agent(cache=RedisCache("memory://"), max_concurrent_tasks=3, max_total_iterations=50)
agent.add_node(
    Node(
        name="double",
        type=ModuleType.EXECUTOR,
        modules=[Doubler(factor=3, config=ModuleConfig(timeout=5))],
        node_config=NodeConfig(max_retries=2, on_error="handler"),
    )
)
agent.add_node(
    Node(
        name="control",
        modules=[
            FlowControlModule(
                flow_config=FlowControlConfig(
                    decisions=[FlowDecision(next_node=["double", END], condition="n > 1")], default="double"
                )
            )
        ],
    )
)


@agent.node
def chunks(task: Task) -> list[list[int]]:
    return [task.params["data"]]


@agent.node(map_over="chunks", max_concurrency=10, max_retries=3, where="index > 0", timeout=1.5)
async def triple(chunk: list[int], index: int) -> list[int]:
    return [3 * number for number in chunk]


@agent.decide(after="triple", to=["chunks", "double"])
def enough(triple: list[list[int]]) -> str | None:
    return END if triple else None


# A decorated function keeps its type.
assert_type(chunks(Task(type="numbers")), list[list[int]])


async def use() -> None:
    outcome = await agent.run_task(
        Task(type="numbers", params={"data": [1]}), state={"n": 1}, run_id="nightly"
    )
    assert_type(outcome, RunResult)
    assert_type(outcome.status, RunStatus)
    assert_type(outcome["combine"], Any)
    assert_type(outcome.failures[0].attempts, int)
    assert_type(outcome.node_results["double"].visits, int)
    async for event in agent.stream(Task(type="numbers")):
        assert_type(event.revision, int)
    assert_type(await agent.resume("nightly"), RunResult)
    assert_type(await agent.state("nightly"), dict[str, Any])
    await agent.signal("nightly", "go", {"approved": True})
    await agent.send_message("nightly", "log", [1, 2])
