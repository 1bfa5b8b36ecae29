"""Drives one run while it holds the run's lease: admits attempts to slots, validates what they come to, commits.

One turn of the loop: take the outcomes that have arrived, check each against those before it, fold it into the mirror,
admit what is ready to free slots (with the fold itself where nothing can come between), and send everything as one
commit. What was admitted starts when the commit is acknowledged. Outcomes that arrive meanwhile wait for the next turn,
so that commits grow with the load (group commit).

Failure at each point: before the commit is sent, nothing has happened and a resume runs the attempt again; if the reply
is lost, the store sends the same commit under the same operation id until it is answered; if the commit is refused, the
mirror is worthless and so is every transaction over it: `drive` raises, and its caller loads the run anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from graphflow.engine.admission import Admission
from graphflow.engine.attempt import Attempt, Returned
from graphflow.engine.backpressure import Backpressure
from graphflow.engine.committer import Committer, now
from graphflow.engine.heartbeat import Heartbeat
from graphflow.engine.map_driver import MapDriver
from graphflow.engine.mirror import Mirror
from graphflow.engine.notebook import Notebook
from graphflow.engine.plan import Plan, bits
from graphflow.engine.post_office import PostOffice
from graphflow.engine.slots import Ended, Slots
from graphflow.engine.tickets import TicketLine
from graphflow.engine.timers import Timers
from graphflow.errors import GraphflowError, LeaseLost
from graphflow.executors.inline import InlineExecutor
from graphflow.failpoints import failpoint
from graphflow.graph.tasks import RunStatus
from graphflow.requests import input_from_request
from graphflow.run import (
    Begin,
    Crashed,
    Input,
    Outcome,
    RetryDue,
    Run,
    StateSet,
    Stop,
    Transition,
)
from graphflow.settings import DEFAULT_STALL_SECONDS
from graphflow.store.contract import Lease, Store

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Arrival:
    """Something to fold. `outcome` is None for an attempt that found itself overtaken."""

    outcome: Ended
    attempt: Attempt | None = None
    #: The attempt in whose name state is set at once: its place in the line counts.
    asker: Attempt | None = None
    #: Set when the outcome is committed.
    committed: asyncio.Future[None] | None = None


class Scheduler:
    """Drives `run`, which was just loaded under `lease`, until it is over."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        store: Store,
        lease: Lease,
        *,
        stall_seconds: float = DEFAULT_STALL_SECONDS,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self.run = run
        self.store = store
        self._lease = lease
        self._on_commit = on_commit
        #: How long it may stand still.
        self.stall_seconds = stall_seconds
        self._loop = asyncio.get_running_loop()
        self._executor = InlineExecutor()
        tickets = TicketLine()
        self._notebook = Notebook(plan, run, store, lease, self._executor, self.break_off)
        self._post = PostOffice(self)
        self._mirror = Mirror(plan, run, store, self._set_now, self._notebook, self._post, self.break_off)
        self.slots = Slots(plan, self._mirror, self._executor, self._ended, run.id)
        self.committer = Committer(plan, run, store, lease, self._mirror, tickets, self._react)
        self.timers = Timers(self.slots.context)
        self._maps = MapDriver(self)
        self.slots.item_ended = self._maps.item_ended
        self.admission = Admission(self, self._maps, tickets)
        self._memory = Backpressure(store, run.id, self.wake, self.break_off)
        self._arrived: deque[Arrival] = deque()
        #: Arrivals that would disturb an older running ticket; they come again when a ticket leaves.
        self._parked: list[Arrival] = []
        self._committing: list[asyncio.Future[None]] = []
        #: The timer that does nothing for the run but end it.
        self._deadline = 0
        self._broken: BaseException | None = None
        #: Requests may wait in the inbox; some may have come before this process did.
        self._has_requests = True
        #: Nothing more is started.
        self.is_draining = False
        self._gave_up = False
        self._wake = asyncio.Event()

    # The loop

    async def drive(self, heartbeat: Heartbeat) -> None:
        """Until the run is over or only waits for signals. LeaseLost or another StoreError if this process may not go on with it."""
        lost = LeaseLost(self.run.id, "its lease was not renewed")
        heartbeat.keep(
            self._lease,
            lost=lambda: _call_in(self._loop, self.break_off, lost),
            inbox=lambda waiting: _call_in(self._loop, self._look_into_inbox),
            call_in_loop=lambda function: _call_in(self._loop, function),
            at_work=self.slots.at_work,
        )
        try:
            with self._executor:
                self._enter()
                while not self._is_at_rest and not self._is_drained:
                    await self._turn()
        finally:
            heartbeat.drop(self._lease)
            await self._stop_everything()

    def drain(self, grace_seconds: float) -> None:
        """Start nothing more; `drive` returns when what runs has been committed, or dropped after `grace_seconds`."""
        failpoint("drain.begun")
        self.is_draining = True
        self.slots.stop_generators()
        self.timers.after(grace_seconds, self._give_up_draining)
        self.wake()

    @property
    def is_held(self) -> bool:
        """Nothing new is to be started now."""
        return self.is_draining or self._memory.is_held

    @property
    def _is_at_rest(self) -> bool:
        """Nothing is left to do, for good or until somebody outside asks for something."""
        if self.run.status is RunStatus.SUSPENDED:
            return not self._has_requests and not self._arrived
        return self.run.status.is_final

    @property
    def _is_drained(self) -> bool:
        if not self.is_draining:
            return False
        return self._gave_up or (self.slots.is_idle and not self._arrived and not self._maps.has_finished)

    def _give_up_draining(self) -> None:
        self._gave_up = True
        self.wake()

    def _enter(self) -> None:
        """Put what the loaded run has in flight at the entrance that first-time work uses."""
        if self.run.deaths > self.run.deaths_counted and self.run.status is not RunStatus.WAITING:
            self.committer.fold(Crashed())
        self.admission.enter_suspects()
        if self.run.status is RunStatus.WAITING:
            self.arrive(Begin())
        for index in bits(self.run.active):
            if not self._maps.enter(index):
                self.admission.enter_node(index)
        if self.plan.deadline is not None:
            # Whoever started the run may have had another clock.
            spent = max(0.0, now() - self.run.started) / 1000 if self.run.started else 0
            stop = Stop(RunStatus.FAILED, f"the run reached deadline={self.plan.deadline:g} s")
            self._deadline = self.timers.after(self.plan.deadline - spent, self.arrive, stop)
        self.wake()

    async def _turn(self) -> None:
        await self._wait()
        await self._read_inbox()
        await self._fold_arrived()
        launches = [] if self.run.status.is_final or self.is_held else self.admission.admit()
        futures, self._committing = self._committing, []
        if (reply := await self.committer.commit()) is not None:
            failpoint("commit.acknowledged")
            self._maps.stored()
            self._on_commit()
            self._memory.note(reply)
            if reply.inbox:
                self._look_into_inbox()
        if self.admission.look_at_suspects():
            self.wake()
        for future in futures:
            if not future.done():
                future.set_result(None)
        for attempt in launches:
            self.slots.launch(attempt)
        self._maps.refill_soon()

    async def _wait(self) -> None:
        if not self._wake.is_set() and self._stands_still:
            self._go_on_or_stall()
        await self._wake.wait()
        self._wake.clear()
        if self._broken is not None:
            raise self._broken

    @property
    def _stands_still(self) -> bool:
        """Nothing will come but from outside."""
        has_timers = len(self.timers) > (self._deadline in self.timers)
        is_idle = self.slots.is_idle and self._maps.is_idle and not self._post.is_delivering
        return is_idle and not self._memory.is_held and not has_timers

    def _go_on_or_stall(self) -> None:
        reason = self._post.stall_reason
        if reason is not None and self.admission.clear_suspects():
            # A suspect waits for a message of what may not run beside it.
            self.wake()
        elif not self.run.waits:
            if reason is None:
                raise GraphflowError(f"run {self.run.id!r}: nothing is in flight, yet the run is not over")
            self.arrive(Stop(RunStatus.FAILED, reason))

    async def _read_inbox(self) -> None:
        """Requests from outside go before what has arrived from within."""
        if not self._has_requests:
            return
        self._has_requests = False
        for text in reversed(await self.store.take_requests(self._lease)):
            failpoint("request.taken")
            request = input_from_request(text)
            if request is None:
                logger.warning("run %s: a request that this version does not know is left out", self.run.id)
            else:
                self._arrived.appendleft(Arrival(request))

    async def _fold_arrived(self) -> None:
        while not self.run.status.is_final:
            if self.committer.is_full:
                self.wake()
                return
            if self._arrived:
                await self._take(self._arrived.popleft())
            elif not (await self._maps.fold_finished() or await self._maps.fold_page()):
                return

    async def _take(self, arrival: Arrival) -> None:
        """Validate against all outcomes before this one, then fold; what has lost is repeated."""
        attempt, outcome = arrival.attempt, arrival.outcome
        if attempt is None:
            self._take_from_outside(arrival)
            return
        if attempt.stopping:
            self.admission.leave(attempt)
            return
        assert attempt.transaction is not None
        if outcome is None or not attempt.transaction.is_valid(self._mirror):
            logger.debug("run %s: %s lost a conflict and is repeated", self.run.id, attempt.node.name)
            self.admission.repeat(attempt)
        elif isinstance(outcome, Returned):
            if not await self._maps.take(attempt, outcome):
                self._parked.append(arrival)
        else:
            if isinstance(outcome, Outcome):
                outcome = self.committer.resolved_outcome(attempt, outcome)
            if self.committer.fold(outcome, attempt, room=self.admission.room):
                self._maps.adopt(attempt)
                self.admission.leave(attempt)
            else:
                self._parked.append(arrival)

    def _take_from_outside(self, arrival: Arrival) -> None:
        """What no attempt has come to: a start, a timer, state set at once."""
        assert arrival.outcome is not None
        assert not isinstance(arrival.outcome, Returned)
        if not self.committer.fold(arrival.outcome, arrival.asker):
            self._parked.append(arrival)
        elif arrival.committed is not None:
            self._committing.append(arrival.committed)

    def _react(self, transition: Transition) -> None:
        """Do outside the mirror what a transition asks for."""
        for index in bits(transition.stopped):
            self._maps.drop(index)
            self.slots.stop_node(index)
            self.admission.drop_node(index)
        if transition.maps or transition.items_ready:
            self._maps.react(transition)
        if transition.sent:
            self._post.react(transition)
        for index, place in transition.ready:
            self.admission.add(Attempt(self.plan.nodes[index], place, self.run.nodes[index].visits))
        for index, place, retry_at in transition.delayed:
            failpoint("retry.scheduled")
            self.timers.after((retry_at - now()) / 1000, self.arrive, RetryDue(index, place))

    def _ended(self, attempt: Attempt, ended: Ended) -> None:
        self._post.drop(attempt)
        if not self._maps.ended(attempt, ended):
            self.arrive(ended, attempt)

    def unpark(self) -> None:
        """A ticket has left: what waited for it is looked at again."""
        self._arrived.extendleft(reversed(self._parked))
        self._parked.clear()
        self.wake()

    # What comes and goes

    def wake(self) -> None:
        self._wake.set()

    def arrive(self, outcome: Ended, attempt: Attempt | None = None) -> None:
        self._arrived.append(Arrival(outcome, attempt))
        self._wake.set()

    def _look_into_inbox(self) -> None:
        self._has_requests = True
        self._wake.set()

    def break_off(self, error: BaseException) -> None:
        """End the driving with this error at the next turn."""
        self._broken = self._broken or error
        self._wake.set()

    async def _set_now(self, key: str, text: str, asker: object) -> None:
        await self.fold_now(StateSet({key: text}), self.slots.attempt_of(asker))

    async def fold_now(self, outcome: Input, asker: Attempt | None) -> None:
        """Fold something in an attempt's name before its outcome; returns when it is committed."""
        committed = self._loop.create_future()
        self._arrived.append(Arrival(outcome, asker=asker, committed=committed))
        self._wake.set()
        await committed

    async def _stop_everything(self) -> None:
        self.timers.close()
        await self._maps.close()
        await self._memory.close()
        await self.slots.stop_all()
        await self._notebook.close()
        for arrival in (*self._arrived, *self._parked):
            if arrival.committed is not None:
                arrival.committed.cancel()
            if arrival.attempt is not None and arrival.attempt.feed is not None:
                arrival.attempt.feed.close()
                await arrival.attempt.feed.wait_closed()


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """From another thread; a loop that is closed by then needs no news."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)
