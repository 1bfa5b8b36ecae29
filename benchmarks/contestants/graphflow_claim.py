"""graphflow without a map: three processors reserve subtasks of a list with `claim`, until none is pending."""

from __future__ import annotations

from typing import Any

from benchmarks.occasion import Occasion
from benchmarks.workloads import PROCESSORS
from graphflow import (
    Agent,
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleType,
    Node,
    NodeConfig,
    RedisCache,
    RunResult,
    Task,
)

PENDING = "len([subtask for subtask in subtasks if subtask['status'] == 'pending']) > 0"
ALL_DONE = "all([subtask['status'] == 'done' for subtask in subtasks])"


async def seven(occasion: Occasion) -> int:
    agent = _agent(occasion)
    await _run(agent, occasion.warm_up_items)
    with occasion.timed():
        outcome = await _run(agent, occasion.items)
    return int(outcome["total"])


def _agent(occasion: Occasion) -> Agent:
    class Processor(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> None:
            subtask = await cache.claim("subtasks", where={"status": "pending"})
            if subtask is not None:
                subtask.set(result=await occasion.body(subtask.item["number"]), status="done")

    class Total(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> None:
            subtasks = await cache.get("subtasks")
            await cache.set("total", occasion.total(subtask["result"] for subtask in subtasks))

    agent = Agent(cache=RedisCache(occasion.server.unix_url), max_concurrent_tasks=PROCESSORS)
    names = [f"processor_{number}" for number in range(PROCESSORS)]
    decisions = [FlowDecision(next_node=name, condition=PENDING) for name in names]
    flow = FlowControlConfig(decisions=[*decisions, FlowDecision(next_node="total", condition=ALL_DONE)])
    agent.add_node(
        Node(name="flow", type=ModuleType.FLOW_CONTROL, modules=[FlowControlModule(flow_config=flow)])
    )
    for name in names:
        agent.add_node(Node(name=name, modules=[Processor()]))
    agent.add_node(
        Node(
            name="total",
            modules=[Total()],
            dependencies=names,
            node_config=NodeConfig(condition=ALL_DONE),
        )
    )
    return agent


async def _run(agent: Agent, items: range) -> RunResult:
    subtasks = [{"number": number, "status": "pending"} for number in items]
    return await agent.run_task(Task(type="subtasks"), state={"subtasks": subtasks})
