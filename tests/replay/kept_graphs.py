"""The graphs of the kept runs; what became of each run is in `kept_runs.py`.

A graph whose run is kept stays as it is, for the stored run knows its hash. Bodies say at `outside` that they are called:
there a recording makes some of them fail, or never return, and a test counts them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from graphflow import (
    Agent,
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    Node,
    NodeConfig,
    RedisCache,
    register_type,
)

#: Longer than any test takes to go on with the run, shorter than its way from the recording to the test.
DEADLINE_SECONDS = 30.0


@dataclass
class Outside:
    """What the graphs call outside of their runs: `broken` calls fail, `stuck` ones never return."""

    stuck: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    calls: list[str] = field(default_factory=list)

    async def call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.stuck:
            await asyncio.Event().wait()
        if name in self.broken:
            raise RuntimeError(f"{name} is out of order")


def agent_on(url: str, **settings: Any) -> Agent:
    return Agent(cache=RedisCache(url, on_risk="ignore"), name="kept", **settings)


@register_type(name="KeptReport")
class Report(BaseModel):
    title: str
    pages: list[int]


def chain(url: str, outside: Outside) -> Agent:
    agent = agent_on(url, auto_snapshot=True, error_mailbox="errors", keep_complete_seconds=3600)

    @agent.node
    async def first(cache):
        await outside.call("first")
        await cache.set("report", Report(title="Tides", pages=[1, 2]))
        await cache.set("seen", {"at": datetime(2026, 11, 20, 8, 30, tzinfo=UTC), "by": {"Ada"}})
        return 20

    @agent.node(max_retries=2)
    async def second(first, cache):
        await outside.call("second")
        report = await cache.get("report")
        await cache.increment("count")
        return first + sum(report.pages)

    @agent.node
    async def third(second, task):
        await outside.call("third")
        return {"sum": second, "text": task.params["text"]}

    return agent


def sums(url: str, outside: Outside, **options: Any) -> Agent:
    agent = agent_on(url)

    @agent.node
    async def numbers(task):
        await outside.call("numbers")
        return list(range(task.params["count"]))

    @agent.node(map_over="numbers", max_concurrency=3, max_retries=1, where="item != 1", **options)
    async def double(number):
        await outside.call(f"double {number}")
        return number * 2

    @agent.node
    async def total(double):
        await outside.call("total")
        return sum(double)

    return agent


def sums_that_fail(url: str, outside: Outside) -> Agent:
    return sums(url, outside, min_success=0.9)


def generator(url: str, outside: Outside) -> Agent:
    agent = agent_on(url)

    async def yields(task, start: int) -> AsyncIterator[int]:
        for number in range(start, task.params["count"]):
            yield number

    def add(total: int, number: int) -> int:
        return total + number

    @agent.node(map_over=yields, max_concurrency=3, where="item % 5 != 4", reduce=add)
    async def square(number):
        await outside.call(f"square {number}")
        return number * number

    @agent.node
    async def report(square):
        await outside.call("report")
        return f"the sum is {square}"

    return agent


def batches(url: str, outside: Outside) -> Agent:
    agent = agent_on(url)

    @agent.node(map_over="numbers", batch_size=2, max_concurrency=2)
    async def double(numbers):
        await outside.call(f"double {numbers[0]}")
        return [number * 2 for number in numbers]

    @agent.node
    async def total(double):
        await outside.call("total")
        return sum(double)

    return agent


def generator_in_batches(url: str, outside: Outside) -> Agent:
    agent = agent_on(url)

    async def yields(task) -> AsyncIterator[str]:
        for number in range(task.params["count"]):
            yield f"word {number}"

    @agent.node(map_over=yields, batch_size=3, max_concurrency=2)
    async def shout(words):
        await outside.call(f"shout {words[0]}")
        return [word.upper() for word in words]

    return agent


def pipeline(url: str, outside: Outside) -> Agent:
    agent = agent_on(url)

    @agent.node(map_over="numbers", max_concurrency=2)
    async def double(number):
        await outside.call(f"double {number}")
        return number * 2

    @agent.node(map_over="double", pipelined=True)
    async def describe(doubled, index):
        await outside.call(f"describe {index}")
        return f"{index}: {doubled}"

    return agent


def counter(url: str, outside: Outside) -> Agent:
    """Every item reads and writes the same state."""
    agent = agent_on(url)

    @agent.node(map_over="numbers", max_concurrency=3)
    async def count(number, cache):
        await outside.call(f"count {number}")
        before = await cache.get("counted", 0)
        await asyncio.sleep(0)
        await cache.set("counted", before + 1)
        await cache.increment("sum", number)

    @agent.node
    async def report(count, cache):
        await outside.call("report")
        return [await cache.get("counted"), await cache.get("sum")]

    return agent


def crowd(url: str, outside: Outside) -> Agent:
    """As `counter`, with many more items than may run at a time."""
    agent = agent_on(url)

    @agent.node(map_over="numbers", max_concurrency=5)
    async def count(number, cache):
        await outside.call(f"count {number}")
        before = await cache.get("counted", 0)
        await cache.set("counted", before + 1)

    return agent


def rounds(url: str, outside: Outside) -> Agent:
    agent = agent_on(url, auto_snapshot=True)

    @agent.node
    async def deal(cache):
        number = await cache.get("rounds")
        await outside.call(f"deal {number}")
        await cache.set("rounds", number + 1)
        return [10 * number + card for card in range(3)]

    @agent.node(map_over="deal", max_concurrency=2)
    async def play(card):
        await outside.call(f"play {card}")
        return card + 1

    @agent.node
    async def score(play, cache):
        await outside.call(f"score {sum(play)}")
        await cache.append("scores", sum(play))

    agent.add_node(
        Node(
            name="again",
            modules=[
                FlowControlModule(
                    flow_config=FlowControlConfig(
                        decisions=[
                            FlowDecision(next_node="deal", condition="rounds < 3"),
                            FlowDecision(next_node="report"),
                        ]
                    )
                )
            ],
            dependencies=["score"],
        )
    )

    @agent.node(start=False)
    async def report(cache):
        await outside.call("report")
        return await cache.get("scores")

    return agent


def letter(url: str, outside: Outside) -> Agent:
    """Waits for signals, with steps before them and messages beside it."""
    agent = agent_on(url, auto_snapshot=True)

    async def draft(of: str) -> str:
        await outside.call(f"draft {of}")
        return f"draft of {of}"

    @agent.node
    async def notes(cache):
        await outside.call("notes")
        for note in ("one", "two"):
            await cache.publish_to_mailbox("notes", {"note": note})

    @agent.node
    async def asks(notes, cache):
        await outside.call("asks")
        text = await cache.step("draft", draft, "a letter", key="a letter")
        approval = await cache.wait_for_signal("approve")
        place = await cache.wait_for_signal("place")
        return f"{text}, approved by {approval['by']}, sent to {place}"

    @agent.node(map_over="voters")
    async def votes(voter, notes, cache):
        await outside.call(f"votes {voter}")
        return [
            voter,
            await cache.step("poll", draft, voter, key=voter),
            await cache.wait_for_signal(f"vote {voter}"),
        ]

    @agent.node
    async def files(asks, votes, cache):
        await outside.call("files")
        return [asks, votes, [await cache.get_message("notes", timeout=5) for _ in range(3)]]

    return agent


def members(url: str, outside: Outside) -> Agent:
    """Nodes of several modules, in turn and at once, with a step and a retry among them."""
    agent = agent_on(url)

    class Member(AgentModule):
        async def process(self, cache, semaphore):
            answer = await cache.step("ask", self.ask, self.name, key=self.name)
            await outside.call(self.name)
            await cache.set(f"answer {self.name}", answer)
            return self.name.upper()

        async def ask(self, name: str) -> str:
            await outside.call(f"ask {name}")
            return f"answer to {name}"

    for node, names, after in (("in_turn", "abc", []), ("at_once", "def", ["in_turn"])):
        agent.add_node(
            Node(
                name=node,
                modules=[Member(name=name) for name in names],
                dependencies=after,
                node_config=NodeConfig(parallel=node == "at_once", max_retries=4),
            )
        )

    @agent.node
    async def report(at_once, cache):
        await outside.call("report")
        return [at_once, [await cache.get(key) for key in await cache.keys() if key.startswith("answer")]]

    return agent


def branches(url: str, outside: Outside) -> Agent:
    """Decisions that choose, skip and clear, a handler of errors, a supervisor that holds something back."""
    agent = agent_on(url)

    @agent.node
    async def look(cache):
        await outside.call("look")
        await cache.set("ready", True)
        return 1

    @agent.decide(after="look", to=["left", "right"])
    async def choose(look):
        await outside.call("choose")
        return "left"

    @agent.node(dependencies=["choose"], max_retries=1, on_error="repair")
    async def left(cache):
        await outside.call("left")
        if await cache.get("repaired", 0) < 1:
            raise ValueError("left is to be repaired first")
        return "left"

    @agent.node(dependencies=["choose"])
    async def right():
        await outside.call("right")

    @agent.node(start=False)
    async def repair(cache):
        await outside.call("repair")
        await cache.increment("repaired")

    again = FlowDecision(next_node="left")
    noting = FlowDecision(next_node="note", condition="ready", condition_variables=["ready"])
    for name, decision, after in (("go_back", again, ["repair"]), ("supervisor", noting, [])):
        config = FlowControlConfig(decisions=[decision])
        agent.add_node(Node(name=name, modules=[FlowControlModule(flow_config=config)], dependencies=after))

    @agent.node(start=False)
    async def note(cache):
        await outside.call("note")
        await cache.set("noted", True)

    @agent.node
    async def end(left, right=None):
        await outside.call("end")
        return [left, right]

    return agent


def in_time(url: str, outside: Outside) -> Agent:
    agent = agent_on(url, deadline=DEADLINE_SECONDS)

    @agent.node
    async def quick(cache):
        await outside.call("quick")
        await cache.set("progress", "quick is done", immediate=True)

    @agent.node
    async def slow(quick):
        await outside.call("slow")
        return "slow"

    return agent
