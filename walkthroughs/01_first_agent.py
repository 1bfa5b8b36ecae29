"""A planner, an executor and flow control in a loop: guess a number by halving the range it can be in."""

from graphflow import (
    Agent,
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleType,
    Node,
    Task,
)


class Planner(AgentModule):
    """Chooses the next guess: the middle of the range that is left."""

    name = "planner"
    type = ModuleType.PLANNER

    async def process(self, cache, semaphore):
        task = await cache.get("task")
        low, high = await cache.get("range", [1, task.params["highest"]])
        await cache.set("range", [low, high])
        await cache.set("guess", (low + high) // 2)
        return {"status": "success", "result": f"between {low} and {high}"}


class Asker(AgentModule):
    """Asks whether the guess is right. A program of yours would call a model or a service here."""

    name = "asker"
    type = ModuleType.EXECUTOR

    async def process(self, cache, semaphore):
        task = await cache.get("task")
        guess, (low, high) = await cache.get("guess"), await cache.get("range")
        answer = compare(task.params["secret"], guess)
        if answer == "higher":
            await cache.set("range", [guess + 1, high])
        elif answer == "lower":
            await cache.set("range", [low, guess - 1])
        await cache.set("answer", answer)
        await cache.append("history", f"{guess}: {answer}")
        return {"status": "success", "result": answer}


class Reporter(AgentModule):
    name = "reporter"

    async def process(self, cache, semaphore):
        guess, history = await cache.get("guess"), await cache.get("history")
        return {"status": "success", "result": f"found {guess} with {len(history)} guesses"}


def compare(secret, guess):
    if secret == guess:
        return "correct"
    return "higher" if secret > guess else "lower"


agent = Agent()
agent.add_node(Node(name="plan", type=ModuleType.PLANNER, modules=[Planner()]))
agent.add_node(Node(name="ask", type=ModuleType.EXECUTOR, modules=[Asker()], dependencies=["plan"]))
agent.add_node(
    Node(
        name="decide",
        type=ModuleType.FLOW_CONTROL,
        modules=[
            FlowControlModule(
                flow_config=FlowControlConfig(
                    decisions=[FlowDecision(next_node="plan", condition="answer != 'correct'")],
                    default="report",
                )
            )
        ],
        dependencies=["ask"],
    )
)
agent.add_node(Node(name="report", modules=[Reporter()], dependencies=["decide"]))


if __name__ == "__main__":
    task = Task(type="guess", objective="find the number", params={"secret": 44, "highest": 100})
    outcome = agent.run_task_sync(task)
    for line in outcome["history"]:
        print(line)
    print(outcome.status, "-", outcome.result)
    for name, node in outcome.node_results.items():
        print(f"{name}: {node.status}, {node.visits} visits")
