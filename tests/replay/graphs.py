"""The graphs of the golden runs: between them they go through every kind of input and most of the rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from graphflow import (
    END,
    Agent,
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    Node,
    NodeConfig,
    RedisCache,
    Task,
)
from tests.parallel_agent import naive_agent


@dataclass(frozen=True)
class Golden:
    """A run to record: an agent on a store, what it is asked, what it begins with."""

    build: Callable[[str], Agent]
    params: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        return Task(type="golden", objective="show the rules", params=self.params, id="golden")


class Flaky(AgentModule):
    """Fails the first `failures` times."""

    failures: int = 0

    async def process(self, cache, semaphore):
        self.failures -= 1
        if self.failures >= 0:
            raise RuntimeError(f"{self.name} is not ready")
        await cache.append("log", self.name)
        return self.name


def agent_on(url: str, **settings: Any) -> Agent:
    return Agent(cache=RedisCache(url), name="golden", **settings)


def flow(
    name: str, *decisions: FlowDecision, after: tuple[str, ...] = (), default: str | None = None
) -> Node:
    config = FlowControlConfig(decisions=list(decisions), default=default)
    return Node(name=name, modules=[FlowControlModule(flow_config=config)], dependencies=list(after))


def modules(name: str, *members: AgentModule, after: tuple[str, ...] = (), **config: Any) -> Node:
    return Node(name=name, modules=list(members), dependencies=list(after), node_config=NodeConfig(**config))


def map_with_failures(url: str) -> Agent:
    agent = agent_on(url)
    tries: dict[int, int] = {}

    @agent.node(map_over="numbers", where="item != 4", max_retries=2, max_concurrency=3)
    async def double(number, cache):
        tries[number] = tries.get(number, 0) + 1
        if number == 7 or (number == 2 and tries[number] == 1):
            raise ValueError(f"{number} is odd in its way")
        if number == 5:
            await cache.append("log", number)
        return number * 2

    @agent.node(condition="len(double) > 3")
    def total(double):
        return sum(double)

    return agent


def map_that_fails_fast(url: str) -> Agent:
    agent = agent_on(url)

    @agent.node(map_over="numbers", on_item_error="fail", max_retries=1, max_concurrency=2)
    async def check(number):
        if number == 3:
            raise ValueError("three")
        await asyncio.sleep(0.01)

    @agent.node
    def after(check):
        return "never"

    @agent.node(run_when="settled", dependencies=["check"])
    def clean_up():
        return "cleaned"

    return agent


def maps_in_a_loop(url: str) -> Agent:
    agent = agent_on(url)

    @agent.node
    async def deal(cache):
        rounds = await cache.get("rounds")
        await cache.set("rounds", rounds + 1)
        return list(range(rounds * 2))

    @agent.node(map_over="deal")
    def square(number):
        return number * number

    @agent.node
    def total(square):
        return sum(square)

    agent.add_node(
        flow(
            "again",
            FlowDecision(next_node="deal", condition="total < 14 and len(square) < 8"),
            FlowDecision(next_node="report"),
            after=("total",),
        )
    )

    @agent.node(start=False)
    def report(total):
        return total

    return agent


def loop_with_a_slow_branch(url: str) -> Agent:
    agent = agent_on(url)

    @agent.node
    async def plan(cache):
        await cache.increment("rounds")

    @agent.node
    def quick(plan):
        return "quick"

    @agent.node
    async def slow(plan):
        await asyncio.sleep(0.02)
        return "slow"

    @agent.node
    def join(quick, slow):
        return [quick, slow]

    @agent.decide(after="join", to=["plan", "report"])
    def enough(rounds=0):
        return "report" if rounds >= 3 else "plan"

    @agent.node(start=False)
    def report():
        return "done"

    return agent


def branch_that_skips(url: str) -> Agent:
    agent = agent_on(url)

    @agent.node
    def look():
        return 1

    @agent.decide(after="look", to=["left", "right"])
    def choose(look):
        return "left"

    @agent.node(dependencies=["choose"])
    def left():
        return "left"

    @agent.node(dependencies=["choose"])
    def right():
        return "right"

    @agent.node(condition="look > 1")
    def never(look):
        return "never"

    @agent.node
    def join(left, right=None, never=None):
        return [left, right, never]

    return agent


def error_handler(url: str) -> Agent:
    agent = agent_on(url)
    agent.add_node(modules("work", Flaky(name="work", failures=1), max_retries=1, on_error="repair"))
    agent.add_node(modules("repair", Flaky(name="repair")))
    agent.add_node(flow("go_back", FlowDecision(next_node="work"), after=("repair",)))
    agent.add_node(modules("report", Flaky(name="report"), after=("work",)))
    return agent


def failure_that_stays(url: str) -> Agent:
    agent = agent_on(url)
    agent.add_node(modules("work", Flaky(name="work", failures=9), max_retries=2))
    agent.add_node(modules("report", Flaky(name="report"), after=("work",)))
    agent.add_node(modules("beside", Flaky(name="beside")))
    return agent


def retries_in_turn_and_at_once(url: str) -> Agent:
    agent = agent_on(url)
    agent.add_node(modules("turns", Flaky(name="a", failures=1), Flaky(name="b", failures=1), max_retries=2))
    members = (Flaky(name="c", failures=1), Flaky(name="d"), Flaky(name="e", failures=5))
    agent.add_node(modules("at_once", *members, after=("turns",), parallel=True, max_retries=2))
    return agent


def supervisors(url: str) -> Agent:
    agent = agent_on(url)

    @agent.node(start=False)
    async def work(cache):
        await cache.increment("done")

    agent.add_node(
        flow(
            "drive",
            FlowDecision(next_node="work", condition="done < 3"),
            FlowDecision(next_node=END, condition="done >= 3"),
        )
    )
    agent.add_node(
        flow("note", FlowDecision(next_node="write", condition="done == 2", condition_variables=["extra"]))
    )

    @agent.node(start=False)
    async def write(cache):
        await cache.set("noted", True)

    return agent


def end_while_something_runs(url: str) -> Agent:
    agent = agent_on(url)

    @agent.node
    async def quick():
        await asyncio.sleep(0.02)
        return 1

    @agent.node
    async def slow():
        await asyncio.sleep(30)

    @agent.decide(after="quick", to=END)
    def stop(quick):
        return END

    return agent


def limit_of_iterations(url: str) -> Agent:
    agent = agent_on(url, max_total_iterations=5)
    agent.add_node(modules("step", Flaky(name="step")))
    agent.add_node(flow("again", FlowDecision(next_node="step"), after=("step",)))
    return agent


def limit_of_visits(url: str) -> Agent:
    agent = agent_on(url)
    agent.add_node(modules("step", Flaky(name="step"), max_visits=2))
    agent.add_node(flow("again", FlowDecision(next_node="step"), after=("step",)))
    return agent


def deadline(url: str) -> Agent:
    agent = agent_on(url, deadline=0.1)
    agent.add_node(modules("quick", Flaky(name="quick")))

    @agent.node(dependencies=["quick"])
    async def slow(cache):
        await cache.set("progress", 1, immediate=True)
        await asyncio.sleep(30)

    return agent


def stalled(url: str) -> Agent:
    agent = agent_on(url)
    agent.add_node(modules("work", Flaky(name="work"), condition="false"))
    agent.add_node(flow("drive", FlowDecision(next_node="work", condition="len(log) == 0"), default="work"))
    return agent


GOLDEN: dict[str, Golden] = {
    "parallel_agent": Golden(naive_agent, params={"data": list(range(20))}),
    "map_with_failures": Golden(map_with_failures, state={"numbers": list(range(10)), "log": []}),
    "map_that_fails_fast": Golden(map_that_fails_fast, state={"numbers": list(range(6))}),
    "maps_in_a_loop": Golden(maps_in_a_loop, state={"rounds": 0}),
    "loop_with_a_slow_branch": Golden(loop_with_a_slow_branch, state={"rounds": 0}),
    "branch_that_skips": Golden(branch_that_skips),
    "error_handler": Golden(error_handler, state={"log": []}),
    "failure_that_stays": Golden(failure_that_stays, state={"log": []}),
    "retries_in_turn_and_at_once": Golden(retries_in_turn_and_at_once, state={"log": []}),
    "supervisors": Golden(supervisors, state={"done": 0, "extra": 1}),
    "end_while_something_runs": Golden(end_while_something_runs),
    "limit_of_iterations": Golden(limit_of_iterations, state={"log": []}),
    "limit_of_visits": Golden(limit_of_visits, state={"log": []}),
    "deadline": Golden(deadline, state={"log": []}),
    "stalled": Golden(stalled, state={"log": []}),
}
