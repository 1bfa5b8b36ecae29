"""One run while it is driven: what everybody shares who takes part in it, whole before the first of them is made.

What has come to something arrives here and waits for the next turn. Whoever takes part may ask for a turn, or break the
driving off; the scheduler alone takes the turns.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from graphflow.engine.attempt import Attempt, CameTo
from graphflow.engine.tasks import start_task
from graphflow.engine.timers import Timers
from graphflow.inputs import Input, StateSet
from graphflow.planning.plan import Plan
from graphflow.run import Run
from graphflow.store.contract import HeldRun, Store

#: The run of the module that this code belongs to; empty elsewhere.
_run_around: contextvars.ContextVar[str] = contextvars.ContextVar("graphflow_run_around", default="")


def is_inside(run_id: str) -> bool:
    """Whether whoever calls this is a module of that run, or was started by one."""
    return _run_around.get() == run_id


@dataclass(slots=True)
class Arrival:
    """Something to fold: what an attempt came to, or an input from elsewhere."""

    came_to: CameTo | Input
    attempt: Attempt | None = None
    #: The attempt in whose name an input is folded before its own outcome: its place in the line counts.
    asker: Attempt | None = None
    #: Set when the input is committed.
    committed: asyncio.Future[None] | None = None


class Drive:
    """A run, which was just loaded, as this process drives it."""

    def __init__(self, plan: Plan, run: Run, store: Store, held: HeldRun) -> None:
        self.plan = plan
        self.run = run
        self.store = store
        self.held = held
        self.loop = asyncio.get_running_loop()
        #: That of whoever drives; attempts, timers and tasks get copies of it.
        self.context = contextvars.copy_context()
        self.context.run(_run_around.set, run.id)
        self.timers = Timers(self.context)
        #: Draws how long the waits between two attempts are.
        self.random = random.Random()
        #: Nothing more is started: the driving is about to end.
        self.is_draining = False
        #: Nothing more is started until there is room in the store.
        self.is_full = False
        #: Requests may wait in the inbox; some may have come before this process did.
        self.has_requests = True
        self.turns = 0
        self._arrived: deque[Arrival] = deque()
        #: Arrivals that would disturb an older running ticket; they come again when a ticket leaves.
        self._parked: list[Arrival] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_due = False
        self._broken: BaseException | None = None
        self._news = asyncio.Event()

    @property
    def is_paused(self) -> bool:
        """Nothing new is to be started now."""
        return self.is_draining or self.is_full

    # Turns

    @property
    def is_due(self) -> bool:
        """A turn is about to come."""
        return self._is_due

    def wake(self) -> None:
        """Another turn is due."""
        self._is_due = True
        self._news.set()

    def look_again(self) -> None:
        """Something has ended that may have been the last thing to go on."""
        self._news.set()

    def look_into_inbox(self) -> None:
        self.has_requests = True
        self.wake()

    def break_off(self, error: BaseException) -> None:
        """End the driving with this error at the next turn."""
        self._broken = self._broken or error
        self.wake()

    async def wait_news(self) -> None:
        self._news.clear()
        await self._news.wait()

    def begin_turn(self) -> None:
        """Raises what the driving was broken off with."""
        self._is_due = False
        self.turns += 1
        if self._broken is not None:
            raise self._broken

    # Beside the turns

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the turns; it is cancelled when the driving ends."""
        task = start_task(self.loop, work, self.context)
        self._tasks.add(task)
        task.add_done_callback(self._task_over)

    def _task_over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.look_again()

    @property
    def is_busy(self) -> bool:
        """Something goes on beside the turns."""
        return bool(self._tasks)

    def close(self) -> None:
        self.timers.close()
        for task in self._tasks:
            task.cancel()

    # Arrivals

    def arrive(self, came_to: CameTo | Input, attempt: Attempt | None = None) -> None:
        self._arrived.append(Arrival(came_to, attempt))
        self.wake()

    def arrive_first(self, request: Input) -> None:
        """Before what has arrived from within."""
        self._arrived.appendleft(Arrival(request))

    async def set_now(self, key: str, text: str, ttl: float | None, asker: Attempt | None) -> None:
        """Set a state key in a transaction of its own, in an attempt's name; returns when it is committed."""
        await self.fold_now(StateSet({key: text}, {} if ttl is None else {key: ttl}), asker)

    async def fold_now(self, outcome: Input, asker: Attempt | None) -> None:
        """Fold something in an attempt's name before its outcome; returns when it is committed."""
        committed = self.loop.create_future()
        self._arrived.append(Arrival(outcome, asker=asker, committed=committed))
        self.wake()
        await committed

    @property
    def has_arrivals(self) -> bool:
        return bool(self._arrived)

    def next_arrival(self) -> Arrival:
        return self._arrived.popleft()

    def park(self, arrival: Arrival) -> None:
        """It has to wait for an older ticket."""
        self._parked.append(arrival)

    def unpark(self) -> None:
        """A ticket has left: what waited for it is looked at again."""
        self._arrived.extendleft(reversed(self._parked))
        self._parked.clear()
        self.wake()

    @property
    def parked(self) -> list[Attempt]:
        """Attempts that are over and wait for the commit of an older one."""
        return [arrival.attempt for arrival in self._parked if arrival.attempt is not None]

    def left(self) -> Iterator[Arrival]:
        """What was not folded."""
        yield from self._arrived
        yield from self._parked
