"""The places in which attempts run: so many at a time, and all of them gone at the end.

Each is a task of its own, but for the plain items of a sync function: a thread pulls them and does all of it, and no
task waits for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable

from graphflow.caches.errands import Suspended
from graphflow.caches.isolation import Overtaken
from graphflow.caches.transaction import Transaction
from graphflow.engine.attempt import (
    Attempt,
    Returned,
    failure_from,
    raised,
    returned,
    start_body,
    timed_out,
)
from graphflow.engine.deadlines import Deadlines
from graphflow.engine.mirror import Mirror
from graphflow.engine.plain_items import CameTo, PlainBody
from graphflow.engine.plan import Plan
from graphflow.engine.sources import read_source
from graphflow.engine.tasks import start_task
from graphflow.engine.teardown import GRACE_SECONDS, STOP_SECONDS, tear_down
from graphflow.executors.inline import InlineExecutor, watch_for_stop
from graphflow.failpoints import failpoint
from graphflow.run import Input, ItemsStored, Outcome, SignalAwaited

logger = logging.getLogger(__name__)

#: What an attempt came to: of a module run or a source what is to be folded, of an item what its body returned; None
#: if it found itself overtaken or was stopped.
Ended = Input | Returned | None


class Slots:
    """Runs attempts. `ended` is called with what an attempt came to, `item_ended` with what a plain item did."""

    #: Set by whoever launches such items.
    item_ended: Callable[[Attempt, CameTo], None]

    def __init__(
        self,
        plan: Plan,
        mirror: Mirror,
        executor: InlineExecutor,
        ended: Callable[[Attempt, Ended], None],
        run_id: str,
    ) -> None:
        self.free = plan.max_concurrent_tasks
        self.context = contextvars.copy_context()
        self._mirror = mirror
        self._executor = executor
        self._ended = ended
        self._run_id = run_id
        self._names = [f"{run_id}/{node.name}" for node in plan.nodes]
        self._deadlines = Deadlines(self.context, self._time_out)
        self._semaphore = asyncio.Semaphore(plan.max_concurrent_tasks)
        self._loop = asyncio.get_running_loop()
        self._running: set[Attempt] = set()
        #: Its task may have begun and is not known yet.
        self._launching: Attempt | None = None
        #: Attempts that were cancelled by the last look and have not ended.
        self._late: set[Attempt] = set()
        #: Tasks that did not end when they were cancelled.
        self._abandoned: set[asyncio.Task[None]] = set()
        self._next_look: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Nothing runs; something may wait for a message."""
        return not any(attempt.holds_slot for attempt in self._running)

    def running(self, index: int) -> int:
        """How many attempts of the node are under way, those that wait for a message left out."""
        return sum(attempt.node.index == index and attempt.holds_slot for attempt in self._running)

    def give_back(self, attempt: Attempt) -> None:
        """Its slot is free for others; it has none any more."""
        if attempt.holds_slot:
            attempt.holds_slot = False
            self.free += 1

    def take_back(self, attempt: Attempt) -> None:
        """It has a slot again. The caller sees to it that there is a free one, unless the attempt cannot wait."""
        if not attempt.holds_slot and attempt in self._running:
            attempt.holds_slot = True
            self.free -= 1

    def attempt_of(self, transaction: object) -> Attempt | None:
        return next((attempt for attempt in self._running if attempt.transaction is transaction), None)

    def at_work(self) -> str:
        """What the event loop is running at this moment, for people. Called from other threads."""
        task = asyncio.current_task(self._loop)
        found = next((attempt for attempt in list(self._running) if attempt.task is task), self._launching)
        return found.description if task is not None and found is not None else "something outside the run"

    def launch(self, attempt: Attempt) -> None:
        """Run the attempt, for which the caller has taken a slot out of `free`; the slot is free again at its end."""
        failpoint("attempt.launched")
        attempt.holds_slot = True
        self._running.add(attempt)
        if self._next_look is None:
            self._next_look = self._loop.call_later(GRACE_SECONDS, self._look_for_late, context=self.context)
        if (body := attempt.body) is not None:
            self._deadlines.start(attempt, body.seconds)
            if not body.is_async:
                self._executor.start(self._pull, attempt, self._pulled_ended)
                return
            work = self._run_item(attempt, body)
        else:
            attempt.transaction = Transaction(self._mirror, attempt)
            if attempt.index is not None:
                attempt.transaction.set_item(attempt.batch or attempt.index, attempt.text)
            if not attempt.reads_generator:
                self._deadlines.start(attempt, attempt.timeout)
            work = self._execute(attempt)
        # A context of its own: the caller's is that of whichever attempt has just ended.
        self._launching = attempt
        task = start_task(self._loop, work, self.context, name=self._names[attempt.node.index])
        self._launching = None
        if attempt in self._running:
            attempt.task = task

    def stop_clock(self, attempt: Attempt) -> None:
        """It waits for a message: that is not in its timeout."""
        attempt.seconds_left = self._deadlines.stop(attempt, attempt.timeout)

    def start_clock(self, attempt: Attempt) -> None:
        if attempt.seconds_left is not None and attempt in self._running:
            self._deadlines.resume(attempt, attempt.seconds_left)
            attempt.seconds_left = None

    def stop_node(self, index: int) -> None:
        for attempt in [attempt for attempt in self._running if attempt.node.index == index]:
            self._stop(attempt)

    def _stop(self, attempt: Attempt) -> None:
        if attempt.stopping:
            # Once is enough: a second cancellation would meet its body as it cleans up after the first.
            return
        attempt.stopping = True
        self._cancel(attempt)

    def _time_out(self, attempt: Attempt) -> None:
        attempt.is_overdue = True
        self._cancel(attempt)

    def _cancel(self, attempt: Attempt) -> None:
        if attempt.task is not None:
            attempt.task.cancel()
        else:
            # Nothing interrupts a thread: the run goes on without it, and another takes its place.
            self._pulled_ended(attempt, None if attempt.stopping else timed_out(attempt))

    def stop_generators(self) -> None:
        """Those that have yielded nothing: it costs nothing to begin them again."""
        for attempt in [attempt for attempt in self._running if attempt.reads_generator]:
            self._stop(attempt)

    def _look_for_late(self) -> None:
        """Abandon what was cancelled before the last look and still runs: a body may catch its cancellation."""
        cancelled = {attempt for attempt in self._running if attempt.is_cancelled}
        for attempt in cancelled & self._late:
            self._abandon(attempt)
        self._late = cancelled
        self._next_look = None
        if self._running:
            self._next_look = self._loop.call_later(GRACE_SECONDS, self._look_for_late, context=self.context)

    def _abandon(self, attempt: Attempt) -> None:
        """Let the run go on as if the attempt had ended; nothing that it still does reaches the run."""
        logger.warning(
            "run %s: %s ignores its cancellation and is left behind; let CancelledError pass in its body",
            self._run_id,
            attempt.description,
        )
        attempt.is_abandoned = True
        if attempt.task is not None:
            self._abandoned.add(attempt.task)
            attempt.task.add_done_callback(self._abandoned.discard)
        self._leave(attempt)
        late = None if attempt.stopping else timed_out(attempt)
        if attempt.body is not None:
            self.item_ended(attempt, late)
        else:
            self._ended(attempt, None if late is None else _outcome(attempt, late))

    async def stop_all(self) -> None:
        """Cancel everything and wait for its end, though not for ever."""
        if self._next_look is not None:
            self._next_look.cancel()
        self._deadlines.close()
        tasks = {attempt.task for attempt in self._running if attempt.task is not None}
        for attempt in list(self._running):
            self._stop(attempt)
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in tasks:
            logger.warning("%s ignores its cancellation and is left behind", task.get_name())
        for task in tasks | self._abandoned:
            tear_down(task)

    async def _execute(self, attempt: Attempt) -> None:
        ended: Ended = None
        if not attempt.node.modules[attempt.module].is_async or attempt.reads_source:
            watch_for_stop(attempt.is_unwanted)
        try:
            if attempt.reads_source:
                ended = await self._read_source(attempt)
            else:
                value = await start_body(attempt, self._semaphore, self._executor)
                ended = _outcome(attempt, returned(attempt, value))
        except (Overtaken, Suspended):
            pass
        except BaseException as error:
            if not (attempt.stopping and isinstance(error, asyncio.CancelledError)):
                ended = _outcome(attempt, raised(attempt, error))
        finally:
            self._leave(attempt)
        # The wait for a signal may have come out in a group of exceptions, or not at all.
        transaction = attempt.transaction
        if transaction is not None and (awaited := transaction.awaits) is not None:
            ended = SignalAwaited(attempt.place, awaited.signal, awaited.field)
        if not attempt.is_abandoned:
            failpoint("attempt.returned")
            self._ended(attempt, ended)

    async def _run_item(self, attempt: Attempt, body: PlainBody) -> None:
        came_to: CameTo = None
        try:
            came_to = body.came_to(attempt, await body.call(attempt))
        except BaseException as error:
            if not (attempt.stopping and isinstance(error, asyncio.CancelledError)):
                came_to = raised(attempt, error)
        finally:
            self._leave(attempt)
        if not attempt.is_abandoned:
            failpoint("attempt.returned")
            self.item_ended(attempt, came_to)

    def _pull(self, attempt: Attempt) -> CameTo:
        """Run an item in the thread that calls this; None if nobody waits for it any more."""
        return None if attempt.is_unwanted() else self.context.copy().run(_run_watched, attempt)

    def _pulled_ended(self, attempt: Attempt, came_to: CameTo) -> None:
        """A thread, or the clock, is done with an item; what comes second comes too late."""
        if attempt in self._running:
            self._leave(attempt)
            failpoint("attempt.returned")
            self.item_ended(attempt, came_to)

    def _leave(self, attempt: Attempt) -> None:
        self.give_back(attempt)
        self._running.discard(attempt)
        timeout = attempt.timeout
        left = self._deadlines.stop(attempt, timeout)
        if left is not None:
            attempt.seconds = timeout - left
        if attempt.transaction is not None:
            attempt.transaction.end()

    async def _read_source(self, attempt: Attempt) -> ItemsStored:
        try:
            return await read_source(attempt, self._mirror, self._semaphore, self._executor, self.context)
        except Overtaken:
            raise
        except BaseException as error:
            if attempt.stopping:
                raise
            failure = timed_out(attempt).failure if attempt.is_overdue else failure_from(error)
            start = self._mirror.taken_from_source(attempt.node.index, attempt.visit)
            return ItemsStored(attempt.node.index, attempt.visit, [], failure, start)


def _outcome(attempt: Attempt, came_to: Returned) -> Outcome | Returned:
    if attempt.index is not None:
        return came_to
    return Outcome(
        attempt.node.index,
        attempt.module,
        attempt.visit,
        came_to.result,
        came_to.failure,
        came_to.decision,
    )


def _run_watched(attempt: Attempt) -> CameTo:
    assert attempt.body is not None
    watch_for_stop(attempt.is_unwanted)
    return attempt.body.run(attempt)
