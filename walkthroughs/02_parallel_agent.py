"""Split 20 numbers into chunks of 3, double them on three processors, aggregate: three forms side by side.

Each subtask takes 50 ms. `naive` takes the first pending subtask, `claim` reserves one, `map` lets the engine hand them
out. All three give the same answer; the times say which work overlaps.
"""

import asyncio

from graphflow import (
    Agent,
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleType,
    Node,
    NodeConfig,
    Task,
)

CHUNK_SIZE = 3
WORK_SECONDS = 0.05
PROCESSORS = ["processor_1", "processor_2", "processor_3"]

PENDING = "subtasks != null and len([st for st in subtasks if st['status'] == 'pending']) > 0"
ALL_DONE = "subtasks != null and all([st['status'] == 'completed' for st in subtasks])"


def split(data):
    return [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]


async def work(numbers):
    await asyncio.sleep(WORK_SECONDS)
    return [number * 2 for number in numbers]


class TaskSplitter(AgentModule):
    name = "splitter"
    type = ModuleType.PLANNER

    async def process(self, cache, semaphore):
        task = await cache.get("task")
        subtasks = [
            {"id": number, "data": chunk, "status": "pending"}
            for number, chunk in enumerate(split(task.params["data"]))
        ]
        await cache.set("subtasks", subtasks)
        return {"status": "success", "result": f"{len(subtasks)} subtasks"}


class NaiveProcessor(AgentModule):
    """Reads the list, works on the first pending subtask, writes the list: each run depends on the one before."""

    name = "naive_processor"

    async def process(self, cache, semaphore):
        subtasks = await cache.get("subtasks")
        pending = [subtask for subtask in subtasks if subtask["status"] == "pending"]
        if not pending:
            return {"status": "success", "result": "nothing pending"}
        subtask = pending[0]
        subtask["results"] = await work(subtask["data"])
        subtask["status"] = "completed"
        await cache.set("subtasks", subtasks)
        return {"status": "success", "result": subtask["id"]}


class ClaimProcessor(AgentModule):
    """Reserves one pending subtask: depends on that one alone."""

    name = "claim_processor"

    async def process(self, cache, semaphore):
        subtask = await cache.claim("subtasks", where={"status": "pending"})
        if subtask is None:
            return {"status": "success", "result": "nothing pending"}
        subtask.set(results=await work(subtask.item["data"]), status="completed")
        return {"status": "success", "result": subtask.index}


class ResultAggregator(AgentModule):
    name = "aggregator"

    async def process(self, cache, semaphore):
        subtasks = await cache.get("subtasks")
        final = [number for subtask in subtasks for number in subtask["results"]]
        await cache.set("final_results", final)
        return {"status": "success", "result": len(final)}


def agent_with(processor):
    """The graph of the first two forms. Its flow control stands apart, so it looks at the state whenever all is idle."""
    agent = Agent(max_concurrent_tasks=3, max_total_iterations=50)
    flow = FlowControlModule(
        flow_config=FlowControlConfig(
            decisions=[
                FlowDecision(next_node="processor_1", condition=PENDING),
                FlowDecision(next_node="processor_2", condition=PENDING),
                FlowDecision(next_node="processor_3", condition=PENDING),
                FlowDecision(next_node="aggregator", condition=ALL_DONE),
            ],
            default="splitter",
        )
    )
    agent.add_node(Node(name="flow_control", type=ModuleType.FLOW_CONTROL, modules=[flow]))
    agent.add_node(Node(name="splitter", type=ModuleType.PLANNER, modules=[TaskSplitter()]))
    for name in PROCESSORS:
        agent.add_node(
            Node(
                name=name,
                type=ModuleType.EXECUTOR,
                modules=[processor()],
                dependencies=["splitter"],
                node_config=NodeConfig(max_retries=2),
            )
        )
    agent.add_node(
        Node(
            name="aggregator",
            modules=[ResultAggregator()],
            dependencies=PROCESSORS,
            node_config=NodeConfig(condition=ALL_DONE),
        )
    )
    return agent


naive_agent = agent_with(NaiveProcessor)
claim_agent = agent_with(ClaimProcessor)
map_agent = Agent(max_concurrent_tasks=3)


@map_agent.node
def chunks(task):
    return split(task.params["data"])


@map_agent.node(map_over="chunks")
async def doubled(chunk):
    return await work(chunk)


@map_agent.node
def final_results(doubled):
    return [number for part in doubled for number in part]


async def main():
    data = list(range(20))
    for form, agent in {"naive": naive_agent, "claim": claim_agent, "map": map_agent}.items():
        outcome = await agent.run_task(Task(type="numbers", objective="double them", params={"data": data}))
        visits = sum(outcome.node_results[name].visits for name in outcome.node_results if name in PROCESSORS)
        runs = f"{visits} processor runs" if visits else f"{len(outcome['doubled'])} items"
        print(f"{form}: {outcome.status}, {outcome.seconds * 1000:.0f} ms, {runs}")
        print(outcome["final_results"])


if __name__ == "__main__":
    asyncio.run(main())
