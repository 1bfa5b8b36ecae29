"""One run under way in memory, with the parts of the driving half in the hands of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from graphflow import Agent, Task
from graphflow.engine.admission import Admission
from graphflow.engine.attempt import Attempt, CameTo
from graphflow.engine.bodies import Bodies
from graphflow.engine.committer import Committer
from graphflow.engine.drive import Drive
from graphflow.engine.line import Line
from graphflow.engine.maps.driver import MapDriver
from graphflow.engine.messages import Messages
from graphflow.engine.run_view import RunView
from graphflow.engine.slots import Slots
from graphflow.engine.steps import Steps
from graphflow.executors.executor import Executor
from graphflow.executors.table import LOCAL, open_executors
from graphflow.ids import RunId
from graphflow.inputs import Begin, Input, Started
from graphflow.run import NodeState, Run
from graphflow.state.names import initial_texts
from graphflow.store.contract import HeldRun
from graphflow.testing import MemoryCache, MemoryStore, TurnedClock
from graphflow.transition import Transition

RUN = RunId("run")


class Scene:
    """What a scheduler has around it. `ended` lists what attempts have come to."""

    def __init__(
        self, agent: Agent, run: Run, store: MemoryStore, held: HeldRun, executors: Mapping[str, Executor]
    ) -> None:
        self.plan = agent.compile([*run.state])
        self.run = run
        self.store = store
        self.ended: list[tuple[Attempt, CameTo]] = []
        self.drive = Drive(self.plan, run, store, held)
        self.line = Line(self.plan, run, on_left=self.drive.unpark)
        self.view = RunView(self.drive)
        self.slots = Slots(self.drive, lambda attempt, came_to: self.ended.append((attempt, came_to)))
        self.steps = Steps(self.drive, executors[LOCAL])
        self.messages = Messages(self.drive, self.slots, self.line)
        self.committer = Committer(self.drive, self.view, self.line)
        self.bodies = Bodies(self.drive, self.view, self.steps, self.messages, executors)
        self.maps = MapDriver(self.drive, self.line, self.slots, self.committer, self.bodies)
        self.admission = Admission(self.drive, self.line, self.slots, self.bodies)

    def index(self, name: str) -> int:
        return self.plan.by_name[name]

    def fold(self, incoming: Input) -> Transition:
        transition = self.committer.fold(incoming)
        assert transition is not None
        return transition

    def attempt(self, name: str) -> Attempt:
        """A new attempt of a node, in its present visit."""
        index = self.index(name)
        return Attempt(self.bodies.of(index, 0), self.run.nodes[index].visits)

    def start(self, name: str) -> Attempt:
        """An attempt of a node that is ready, launched in a slot."""
        self.fold(Started(self.index(name), 0))
        attempt = self.attempt(name)
        self.slots.take(attempt)
        self.slots.launch(attempt)
        return attempt

    def came_to(self, attempt: Attempt) -> CameTo:
        [found] = [came_to for each, came_to in self.ended if each is attempt]
        return found


@asynccontextmanager
async def scene(agent: Agent, **state: Any) -> AsyncIterator[Scene]:
    """A run that has begun."""
    store = MemoryStore()
    plan = agent.compile([*state])
    texts = initial_texts(state)
    new = Run(RUN, Task(type="test"), [NodeState() for _ in plan.nodes], state=texts)
    await store.create(new, plan, agent="test", code="")
    held = await store.acquire(RUN, 10)
    with open_executors((), pytest.fail) as executors:
        made = Scene(agent, await held.load(plan), store, held, executors)
        made.fold(Begin())
        try:
            yield made
        finally:
            made.drive.close()
            await made.maps.close()
            await made.slots.stop_all()


def agent(**options: Any) -> Agent:
    return Agent(cache=MemoryCache(), name="test", **options)


def turned(main: Callable[[TurnedClock], Coroutine[Any, Any, None]], **options: Any) -> TurnedClock:
    """Run a coroutine that is given its clock."""
    clock = TurnedClock(**options)
    clock.run(main(clock))
    return clock


async def turns(count: int = 5) -> None:
    """Let everybody else have so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)
