"""Plays a small graph through every order in which its module runs can come to their ends.

The graph is driven as it always is, by the engine's own scheduler over a store in memory. Bodies run as soon as they are
started; what they come to is held until the order that is being played says that it is their turn.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphflow.codec import decode_all
from graphflow.engine.attempt import Attempt, Body, CameTo
from graphflow.engine.bodies import Bodies
from graphflow.engine.drive import Drive
from graphflow.engine.heartbeat import Heartbeat
from graphflow.engine.run_view import RunView
from graphflow.engine.scheduler import Scheduler
from graphflow.executors.executor import A, Executor, Work
from graphflow.executors.table import EXECUTORS
from graphflow.graph.tasks import RunStatus, Task
from graphflow.ids import ModuleNumber, NodeNumber, RunId
from graphflow.planning.plan import Plan
from graphflow.result import RunResult, run_result
from graphflow.run import NodeState, Run
from graphflow.state.names import initial_texts
from graphflow.state.view import Messages, Steps
from graphflow.store.contract import Lease
from graphflow.testing.clock import TurnedClock
from graphflow.testing.store import MemoryStore

if TYPE_CHECKING:
    from graphflow.agent import Agent

#: Orders that are played at most.
ORDERS = 5_000
#: What an order calls that nothing ends before the next retry or the end of a wait.
TIME = "time"
#: Bounds of a seed that nobody gave.
_SEEDS = 10**6


@dataclass(frozen=True, slots=True)
class Played:
    """What `play_every_order` has played: so many orders, `is_every` if there are no others; drawn by `seed`."""

    orders: int
    is_every: bool
    seed: int


def play_every_order(
    agent: Agent,
    task: Task,
    check: Callable[[RunResult], object] = lambda outcome: None,
    *,
    state: Mapping[str, Any] | None = None,
    orders: int = ORDERS,
    seed: int | None = None,
) -> Played:
    """Run the task once for each order in which its module runs and items can end, and hand each outcome to `check`.

    Up to `orders` of them are played; of more, as many that differ, drawn by `seed`, which is printed then. Whatever is
    raised, by `check` too, has a note with the order and the seed. Each run begins with `state` in a store of its own;
    what bodies change outside their cache stays from one to the next. Their cache's writes are seen by the others when
    they have ended, so that one whose reads are overtaken loses its conflict and runs again. Sync functions run on the
    loop, one at a time. Time moves on when nothing is held, or as one of the things that may come next while a retry, a
    wait with a timeout or the end of a key is due.

    Call it where no event loop runs. A run that waits for signals ends as suspended. ValueError unless `orders` is at
    least 1; InvalidGraph, UnstorableValue as for `run_task`.
    """
    if orders < 1:
        raise ValueError(f"play_every_order(orders={orders}): play at least 1")
    seed = random.randrange(_SEEDS) if seed is None else seed
    initial = initial_texts(state or {})
    plays = _Plays(agent, agent.compile(list(initial)), task, initial, random.Random(seed))
    played = plays.clock.run(plays.play(check, orders, seed))
    if not played.is_every:
        print(f"played {played.orders} of the orders of {agent.name}, drawn by seed={seed}")
    return played


@dataclass(slots=True)
class _Point:
    """A point at which one of several things comes next, by the number of the thing."""

    after: dict[int, _Point] = field(default_factory=dict)
    #: Nothing new comes after this point.
    is_played: bool = False


class _Plays:
    """All runs of one graph, one after the other under one clock."""

    def __init__(
        self, agent: Agent, plan: Plan, task: Task, state: dict[str, str], chance: random.Random
    ) -> None:
        self.clock = TurnedClock(on_idle=self._go_on)
        self._agent = agent
        self._plan = plan
        self._task = task
        self._state = state
        self._chance = chance
        self._first = _Point()
        #: The points of the order that is being played, and how many things could come next there.
        self._path: list[tuple[_Point, int]] = []
        self._order: list[str] = []
        self._held: dict[str, asyncio.Future[None]] = {}
        self._drive: Drive | None = None

    async def play(self, check: Callable[[RunResult], object], orders: int, seed: int) -> Played:
        heartbeat = Heartbeat(_NobodyElse)
        count = 0
        try:
            while count < orders and not self._first.is_played:
                count += 1
                self._path, self._order, self._held = [(self._first, 0)], [], {}
                try:
                    check(await self._play(heartbeat))
                except BaseException as error:
                    order = "; ".join(self._order) or "of a run in which nothing came to its end"
                    error.add_note(f"in the order {order} (seed={seed}, order {count})")
                    raise
                self._close_path()
        finally:
            heartbeat.close()
        return Played(count, self._first.is_played, seed)

    async def _play(self, heartbeat: Heartbeat) -> RunResult:
        store = MemoryStore()
        run_id = RunId("played")
        new = Run(
            run_id,
            self._task.model_copy(deep=True),
            [NodeState() for _ in self._plan.nodes],
            state=dict(self._state),
        )
        await store.create(new, self._plan, agent=self._agent.name, code="")
        held = await store.acquire(run_id, self._agent.lease_seconds)
        run = await held.load(self._plan)
        scheduler = Scheduler(
            self._plan,
            run,
            store,
            held,
            dict.fromkeys(EXECUTORS, _LoopExecutor()),
            stall_seconds=self._agent.stall_seconds,
            make_bodies=self._make_bodies,
        )
        await scheduler.drive(heartbeat)
        return await _result(store, self._plan, run)

    def _make_bodies(
        self, drive: Drive, view: RunView, steps: Steps, messages: Messages, executors: Mapping[str, Executor]
    ) -> Bodies:
        drive.random.seed(0)
        self._drive = drive
        return _HeldBodies(drive, view, steps, messages, executors, self._hold)

    async def _hold(self, attempt: Attempt) -> None:
        """Until it is the attempt's turn to end."""
        place = _name(attempt)
        turn = self._held[place] = asyncio.get_running_loop().create_future()
        try:
            await turn
        finally:
            if self._held.get(place) is turn:
                del self._held[place]

    # What comes next

    def _go_on(self) -> bool:
        """Nothing can happen but what is held: let one of these happen. False if time alone can help."""
        if self._drive is None or not self._held:
            return False
        choices = sorted(self._held)
        due = self._drive.timers.next_at
        if due is not None:
            choices.append(TIME)
        chosen = choices[self._choose(len(choices))]
        self._order.append(chosen)
        if chosen == TIME and due is not None:
            self.clock.move_to(due)
        else:
            self._held.pop(chosen).set_result(None)
        return True

    def _choose(self, count: int) -> int:
        point = self._path[-1][0]
        self._path[-1] = point, count
        known = point.after
        fresh = [number for number in range(count) if number not in known or not known[number].is_played]
        number = self._chance.choice(fresh) if len(fresh) > 1 else fresh[0]
        self._path.append((known.setdefault(number, _Point()), 0))
        return number

    def _close_path(self) -> None:
        """This order was played to its end: it is not played again."""
        for point, count in reversed(self._path):
            point.is_played = len(point.after) == count and all(
                each.is_played for each in point.after.values()
            )
            if not point.is_played:
                return
            # Nobody will come here again.
            point.after = {}


def _name(attempt: Attempt) -> str:
    """As in `double[3]`, `plan.1` for the second module of a node, `plan, visit 2`."""
    node = attempt.node
    module = f".{attempt.module}" if len(node.modules) > 1 else ""
    item = "" if attempt.index is None else f"[{attempt.index}]"
    visit = f", visit {attempt.visit}" if attempt.visit > 1 else ""
    return f"{node.name}{module}{item}{visit}"


class _HeldBodies(Bodies):
    """Bodies that end when they are told to."""

    def __init__(
        self,
        drive: Drive,
        view: RunView,
        steps: Steps,
        messages: Messages,
        executors: Mapping[str, Executor],
        hold: Callable[[Attempt], Any],
    ) -> None:
        super().__init__(drive, view, steps, messages, executors)
        self._hold = hold

    def of(self, index: NodeNumber, module: ModuleNumber) -> Body:
        return _HeldBody(super().of(index, module), self._hold)

    def of_items(self, index: NodeNumber) -> Body:
        return _HeldBody(super().of_items(index), self._hold)


class _HeldBody:
    def __init__(self, body: Body, hold: Callable[[Attempt], Any]) -> None:
        self.node = body.node
        self.module = body.module
        self.seconds = body.seconds
        self._body = body
        self._hold = hold

    def open(self, attempt: Attempt) -> None:
        self._body.open(attempt)

    async def start(self, attempt: Attempt) -> Any:
        try:
            value = self._body.start(attempt)
            if inspect.isawaitable(value):
                value = await value
        except asyncio.CancelledError:
            raise
        except BaseException:
            await self._hold(attempt)
            raise
        await self._hold(attempt)
        return value

    def came_to(self, attempt: Attempt, value: Any) -> CameTo:
        return self._body.came_to(attempt, value)

    def raised(self, attempt: Attempt, error: BaseException) -> CameTo:
        return self._body.raised(attempt, error)


class _NobodyElse:
    """A renewer for leases that nobody contests."""

    def renew(self, lease: Lease) -> int:
        return 0

    def close(self) -> None:
        """There is nothing to close."""


class _LoopExecutor(AbstractContextManager["_LoopExecutor"]):
    """Runs sync bodies on the event loop, so that they come in one order."""

    def __exit__(self, *exc_info: object) -> None:
        """There are no threads to end."""

    async def execute(
        self, function: Callable[..., Any], *args: Any, ended: Callable[[], None] | None = None
    ) -> Any:
        try:
            result = contextvars.copy_context().run(function, *args)
            return await result if inspect.isawaitable(result) else result
        finally:
            if ended is not None:
                ended()

    async def in_thread(
        self, function: Callable[..., Any], arguments: dict[str, Any], ended: Callable[[], None]
    ) -> Any:
        try:
            return contextvars.copy_context().run(function, **arguments)
        finally:
            ended()

    def start(self, work: Work, asker: A, ended: Callable[[A, Any], None]) -> None:
        asyncio.get_running_loop().call_soon(lambda: ended(asker, work.call(*work.arguments)))


async def _result(store: MemoryStore, plan: Plan, run: Run) -> RunResult:
    names = [node.name for node in plan.nodes if node.map is not None]
    failed = {name: await store.failed_items(run.id, name) for name in names}
    results = {
        name: [text async for page in store.result_pages(run.id, name) for _, text in page] for name in names
    }
    status = run.status
    assert status.is_final or status is RunStatus.SUSPENDED
    return run_result(plan, run, failed, lambda name: decode_all(results[name], name))
