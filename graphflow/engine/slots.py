"""The places in which attempts run: so many at a time, so many of each node, and all of them gone at the end.

Each attempt is a task of its own, or work for an executor that nobody awaits; whatever ends it, it ends in `_end`. What
an attempt does is its body's affair.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from graphflow.engine.attempt import Attempt, Body, CameTo
from graphflow.engine.cancellation import GRACE_SECONDS, STOP_SECONDS, tear_down
from graphflow.engine.deadlines import Deadlines
from graphflow.engine.drive import Drive
from graphflow.engine.left_behind import LeftBehind
from graphflow.engine.returned import Unfinished, timed_out
from graphflow.engine.tasks import start_task
from graphflow.executors.executor import Executor, Work
from graphflow.failpoints import failpoint
from graphflow.graph.functions import drop
from graphflow.ids import NodeNumber

logger = logging.getLogger(__name__)


class Slots:
    """Runs attempts. `ended` is called with what an attempt came to."""

    def __init__(self, drive: Drive, ended: Callable[[Attempt, CameTo], None]) -> None:
        self.free = drive.plan.max_concurrent_tasks
        #: Attempts that stepped aside and want to go on, the next one first.
        self.returning: deque[Attempt] = deque()
        self._drive = drive
        self._ended = ended
        self._names = [f"{drive.run.id}/{node.name}" for node in drive.plan.nodes]
        #: Attempts by node that hold a slot.
        self._taken = [0] * len(drive.plan.nodes)
        #: Of each node the sub-graphs around it, as (number, module runs at a time); attempts by sub-graph with a slot.
        self._around = [
            tuple((scope.number, scope.max_concurrent_tasks) for scope in drive.plan.around(node))
            for node in drive.plan.nodes
        ]
        self._taken_inside = [0] * len(drive.plan.scopes)
        #: Attempts that have none any more, and count in their node's max_concurrency.
        self._left_behind = LeftBehind(drive)
        self._deadlines = Deadlines(drive.context, self._time_out)
        self._running: set[Attempt] = set()
        #: Its task may have begun and is not known yet.
        self._launching: Attempt | None = None
        #: Attempts that were cancelled by the last look and have not ended.
        self._late: set[Attempt] = set()
        #: Tasks that did not end when they were cancelled.
        self._abandoned: set[asyncio.Task[None]] = set()
        self._next_look: asyncio.TimerHandle | None = None

    # Who has one

    @property
    def is_idle(self) -> bool:
        """Nothing runs; something may wait for a message."""
        return not any(attempt.holds_slot for attempt in self._running)

    def has_room(self, attempt: Attempt) -> bool:
        """Whether there is a slot for it, and as few of its node under way as its max_concurrency wants."""
        if self._free_for(attempt.node.index) <= 0:
            return False
        limit = attempt.node.config.max_concurrency
        # Of a map the items are limited, not the reading of its source.
        return limit is None or attempt.reads_source or self._places_left(attempt.node.index, limit) > 0

    def room_for_items(self, index: NodeNumber, limit: int | None) -> int:
        """How many items of the map node may start now."""
        free = self._free_for(index)
        return free if limit is None else min(free, self._places_left(index, limit))

    def _free_for(self, index: NodeNumber) -> int:
        """How many slots the run and the sub-graphs around the node leave to it."""
        free = self.free
        for number, limit in self._around[index]:
            free = min(free, limit - self._taken_inside[number])
        return free

    def _places_left(self, index: int, limit: int) -> int:
        """How many of the node's max_concurrency are neither under way nor left behind and at work."""
        return limit - self._taken[index] - self._left_behind.count(index)

    @property
    def blocked_nodes(self) -> list[int]:
        """The numbers of the nodes that start nothing before one that was left behind has ended."""
        nodes = self._drive.plan.nodes
        return [
            index
            for index in self._left_behind.nodes
            if self._places_left(index, nodes[index].config.max_concurrency or 0) <= 0
        ]

    def running(self, index: NodeNumber) -> int:
        """How many attempts of the node hold a slot."""
        return self._taken[index]

    def take(self, attempt: Attempt) -> None:
        """The attempt has a slot from here on. The caller sees to it that there is a free one, unless the attempt cannot
        wait."""
        if not attempt.holds_slot:
            attempt.holds_slot = True
            self.free -= 1
            self._taken[attempt.node.index] += 1
            for number, _ in self._around[attempt.node.index]:
                self._taken_inside[number] += 1

    def give_back(self, attempt: Attempt) -> None:
        """Its slot is free for others; it has none any more."""
        if attempt.holds_slot:
            attempt.holds_slot = False
            self.free += 1
            self._taken[attempt.node.index] -= 1
            for number, _ in self._around[attempt.node.index]:
                self._taken_inside[number] -= 1

    # Waiting without a slot

    def step_aside(self, attempt: Attempt) -> None:
        """It waits for a message: its slot is free for others, and its time stands still."""
        attempt.is_aside = True
        seconds = attempt.body.seconds
        attempt.seconds_left = None if seconds is None else self._deadlines.stop(attempt, seconds)
        self.give_back(attempt)

    async def come_back(self, attempt: Attempt) -> None:
        """Returns when it has a slot again; it stands in `returning` until then."""
        if not attempt.is_aside:
            return
        if attempt.comeback is None:
            attempt.comeback = asyncio.Event()
            self.returning.append(attempt)
            self._drive.wake()
        await attempt.comeback.wait()

    def let_come_back(self, attempt: Attempt) -> None:
        """It goes on now; if it was interrupted while it waited, for a moment beyond the limit."""
        if not attempt.is_aside:
            return
        attempt.is_aside = False
        if attempt in self._running:
            self.take(attempt)
            if attempt.seconds_left is not None:
                self._deadlines.resume(attempt, attempt.seconds_left)
                attempt.seconds_left = None
        if attempt.comeback is not None:
            attempt.comeback.set()
            attempt.comeback = None

    # Attempts begin

    def launch(self, attempt: Attempt) -> None:
        """Run the attempt, which has a slot, as a task; the slot is free again at its end."""
        body = attempt.body
        self._begin(attempt, body.seconds)
        body.open(attempt)
        # A context of its own: the caller's is that of whichever attempt has just ended.
        self._launching = attempt
        name = self._names[attempt.node.index]
        task = start_task(
            self._drive.loop, self._execute(attempt, body, body.start), self._drive.context, name=name
        )
        self._launching = None
        if attempt in self._running:
            attempt.task = task

    def delegate(
        self,
        attempt: Attempt,
        executor: Executor,
        call: Callable[..., CameTo | Unfinished],
        *arguments: object,
    ) -> None:
        """Have the attempt, which has a slot, done by an executor: all of it is this call, but for what that leaves to be
        awaited."""
        self._begin(attempt, attempt.body.seconds)
        work = Work(call, arguments, self._names[attempt.node.index])
        executor.start(work, attempt, self._executor_ended)

    def _go_on(self, attempt: Attempt, rest: Awaitable[Any]) -> None:
        """The attempt is a task from here on, in its slot and its time."""
        self._launching = attempt
        name = self._names[attempt.node.index]
        work = self._execute(attempt, attempt.body, lambda _: rest)
        task = start_task(self._drive.loop, work, self._drive.context, name=name)
        self._launching = None
        if attempt in self._running:
            attempt.task = task

    def _begin(self, attempt: Attempt, seconds: float | None) -> None:
        failpoint("attempt.launched")
        self._running.add(attempt)
        if self._next_look is None:
            self._look_for_late_soon()
        if seconds is not None:
            self._deadlines.start(attempt, seconds)

    async def _execute(
        self, attempt: Attempt, body: Body, start: Callable[[Attempt], Awaitable[Any]]
    ) -> None:
        came_to: CameTo = None
        try:
            came_to = body.came_to(attempt, await start(attempt))
        except BaseException as error:
            if not (attempt.stopping and isinstance(error, asyncio.CancelledError)):
                came_to = self._raised(attempt, error)
        if not attempt.is_abandoned:
            self._end(attempt, came_to)

    def _raised(self, attempt: Attempt, error: BaseException) -> CameTo:
        """What it came to. Raises what ends the process: then it has come to nothing, and only its slot is given back."""
        try:
            return attempt.body.raised(attempt, error)
        except BaseException:
            if not attempt.is_abandoned:
                self._leave(attempt)
            raise

    def _executor_ended(self, attempt: Attempt, came_to: CameTo | Unfinished) -> None:
        """The executor is done with it."""
        if isinstance(came_to, Unfinished):
            self._executor_left(attempt, came_to.rest)
        elif attempt in self._running:
            self._end(attempt, came_to)
        else:
            # The clock came first: what the executor has comes too late.
            attempt.work_ended()

    def _executor_left(self, attempt: Attempt, rest: Awaitable[Any]) -> None:
        """The executor has left this to be awaited."""
        if attempt in self._running:
            self._go_on(attempt, rest)
        else:
            drop(rest)
            attempt.work_ended()

    def _end(self, attempt: Attempt, came_to: CameTo) -> None:
        """It is over: its body, its executor or the clock has ended it, or it was abandoned."""
        self._leave(attempt)
        failpoint("attempt.returned")
        self._ended(attempt, came_to)

    def _leave(self, attempt: Attempt) -> None:
        self.give_back(attempt)
        self._running.discard(attempt)
        seconds = attempt.body.seconds
        if seconds is not None:
            left = attempt.seconds_left if attempt.is_aside else self._deadlines.stop(attempt, seconds)
            # None: its time was up before.
            if left is not None:
                attempt.seconds = seconds - left
        if attempt.transaction is not None:
            attempt.transaction.end()
        if attempt.at_work:
            self._left_behind.add(attempt)

    # Attempts are ended

    def stop_node(self, index: NodeNumber) -> None:
        for attempt in [attempt for attempt in self._running if attempt.node.index == index]:
            self._stop(attempt)

    def stop_generators(self) -> None:
        """Those that have yielded nothing: it costs nothing to begin them again."""
        for attempt in [attempt for attempt in self._running if attempt.reads_generator]:
            self._stop(attempt)

    def _stop(self, attempt: Attempt) -> None:
        if attempt.stopping:
            # Once is enough: a second cancellation would meet its body as it cleans up after the first.
            return
        attempt.stopping = True
        self._cancel(attempt)

    def _time_out(self, attempt: Attempt, seconds_left: float) -> None:
        seconds = attempt.body.seconds
        assert seconds is not None
        attempt.is_overdue = True
        attempt.seconds = seconds - seconds_left
        self._cancel(attempt)

    def _cancel(self, attempt: Attempt) -> None:
        if attempt.task is not None:
            attempt.task.cancel()
        else:
            # Nothing interrupts a thread: the run goes on without it, and another takes its slot.
            attempt.work_begins()
            self._end(attempt, None if attempt.stopping else timed_out(attempt.timeout))

    def _look_for_late_soon(self) -> None:
        self._next_look = self._drive.loop.call_later(
            GRACE_SECONDS, self._look_for_late, context=self._drive.context
        )

    def _look_for_late(self) -> None:
        """Abandon what was cancelled before the last look and still runs: a body may catch its cancellation."""
        cancelled = {attempt for attempt in self._running if attempt.is_cancelled}
        for attempt in cancelled & self._late:
            self._abandon(attempt)
        self._late = cancelled
        self._next_look = None
        if self._running:
            self._look_for_late_soon()

    def _abandon(self, attempt: Attempt) -> None:
        """Let the run go on as if the attempt had ended; nothing that it still does reaches the run."""
        logger.warning(
            "run %s: %s ignores its cancellation and is left behind; let CancelledError pass in its body",
            self._drive.run.id,
            attempt.description,
        )
        attempt.is_abandoned = True
        if attempt.task is not None:
            self._abandoned.add(attempt.task)
            attempt.task.add_done_callback(self._abandoned.discard)
            ended = attempt.work_begins()
            attempt.task.add_done_callback(lambda _: ended())
        self._end(attempt, None if attempt.stopping else timed_out(attempt.timeout))

    async def stop_all(self) -> None:
        """Cancel everything and wait for its end, though not for ever."""
        if self._next_look is not None:
            self._next_look.cancel()
        self._deadlines.close()
        self._left_behind.close()
        tasks = {attempt.task for attempt in self._running if attempt.task is not None}
        for attempt in list(self._running):
            self._stop(attempt)
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in tasks:
            logger.warning("%s ignores its cancellation and is left behind", task.get_name())
        for task in tasks | self._abandoned:
            tear_down(task)

    def at_work(self) -> str:
        """What the event loop is running at this moment, for people. Called from other threads."""
        task = asyncio.current_task(self._drive.loop)
        found = next((attempt for attempt in list(self._running) if attempt.task is task), self._launching)
        return found.description if task is not None and found is not None else "something outside the run"
