"""The places in which attempts run: so many at a time, each a task of its own, and all of them gone at the end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from contextlib import suppress

from graphflow.caches.errands import Suspended
from graphflow.caches.transaction import Overtaken, Transaction
from graphflow.engine.attempt import Attempt, Returned, failure_from, run_attempt
from graphflow.engine.maps import read_items
from graphflow.engine.mirror import Mirror
from graphflow.engine.plan import Plan
from graphflow.executors.inline import InlineExecutor, watch_for_stop
from graphflow.failpoints import failpoint
from graphflow.run import Input, ItemsStored, Outcome, SignalAwaited

logger = logging.getLogger(__name__)

#: Seconds that cancelled attempts get to end before they are left behind.
STOP_SECONDS = 5.0


class Slots:
    """Runs attempts in tasks. `ended` is called with what an attempt came to: None if it found itself overtaken or was
    stopped."""

    def __init__(
        self,
        plan: Plan,
        mirror: Mirror,
        executor: InlineExecutor,
        ended: Callable[[Attempt, Input | None], None],
        run_id: str,
    ) -> None:
        self.free = plan.max_concurrent_tasks
        self.context = contextvars.copy_context()
        self._mirror = mirror
        self._executor = executor
        self._ended = ended
        self._run_id = run_id
        self._semaphore = asyncio.Semaphore(plan.max_concurrent_tasks)
        self._loop = asyncio.get_running_loop()
        self._running: set[Attempt] = set()

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

    def launch(self, attempt: Attempt) -> None:
        """Run the attempt, for which the caller has taken a slot out of `free`; the slot is free again at its end."""
        failpoint("attempt.launched")
        attempt.transaction = Transaction(self._mirror, attempt)
        attempt.holds_slot = True
        if attempt.index is not None:
            attempt.transaction.set_item(attempt.index, attempt.text)
        self._running.add(attempt)
        # A context of its own: the caller's is that of whichever attempt has just ended.
        attempt.task = self._loop.create_task(
            self._execute(attempt), name=f"{self._run_id}/{attempt.node.name}", context=self.context.copy()
        )

    def stop_node(self, index: int) -> None:
        for attempt in [attempt for attempt in self._running if attempt.node.index == index]:
            _stop(attempt)

    async def stop_all(self) -> None:
        """Cancel everything and wait for its end, though not for ever."""
        tasks = [attempt.task for attempt in self._running if attempt.task is not None]
        for attempt in list(self._running):
            _stop(attempt)
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in left:
            logger.warning("%s ignores its cancellation and is left behind", task.get_name())

    async def _execute(self, attempt: Attempt) -> None:
        outcome: Input | None = None
        watch_for_stop(attempt.is_unwanted)
        try:
            outcome = await (self._read_source(attempt) if attempt.reads_source else self._run_body(attempt))
        except Overtaken:
            pass
        except asyncio.CancelledError:
            if not attempt.stopping:
                raise
        finally:
            self.give_back(attempt)
            self._running.discard(attempt)
            assert attempt.transaction is not None
            attempt.transaction.end()
        failpoint("attempt.returned")
        self._ended(attempt, outcome)

    async def _run_body(self, attempt: Attempt) -> Outcome | SignalAwaited:
        node, transaction = attempt.node, attempt.transaction
        assert transaction is not None
        returned = Returned()
        with suppress(Suspended):
            returned = await run_attempt(attempt, transaction, self._semaphore, self._executor)
        # It may have come out in a group of exceptions, or not at all.
        if (awaited := transaction.awaits) is not None:
            return SignalAwaited(attempt.place, awaited.signal, awaited.field)
        return Outcome(
            node.index, attempt.module, attempt.visit, returned.result, returned.failure, returned.decision
        )

    async def _read_source(self, attempt: Attempt) -> ItemsStored:
        assert attempt.transaction is not None
        outcome = ItemsStored(attempt.node.index, attempt.visit, [])
        try:
            outcome.items = await read_items(attempt.node, attempt.transaction, self._mirror)
        except Overtaken:
            raise
        except BaseException as error:
            if attempt.stopping:
                raise
            outcome.failure = failure_from(error)
        return outcome


def _stop(attempt: Attempt) -> None:
    attempt.stopping = True
    if attempt.task is not None:
        attempt.task.cancel()
