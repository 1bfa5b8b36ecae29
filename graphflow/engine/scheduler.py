"""Drives one run while it holds the run's lease: admits attempts to slots, validates what they come to, commits.

One turn of the loop: take what has arrived, check each outcome against those before it, fold it into the run, admit what
is ready to free slots (with the fold itself where nothing can come between), and send everything as one commit. What was
admitted starts when the commit is acknowledged. What arrives meanwhile waits for the next turn, so that commits grow
with the load (group commit).

Failure at each point: before the commit is sent, nothing has happened and a resume runs the attempt again; if the reply
is lost, the store sends the same commit under the same operation id until it is answered; if the commit is refused, the
run in memory is worthless and so is every transaction over it: `drive` raises, and its caller loads the run anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from graphflow.clock import now
from graphflow.engine.admission import Admission
from graphflow.engine.attempt import Attempt, CameTo
from graphflow.engine.backpressure import Backpressure
from graphflow.engine.bodies import Bodies
from graphflow.engine.committer import Committer
from graphflow.engine.drive import Arrival, Drive
from graphflow.engine.heartbeat import Heartbeat
from graphflow.engine.line import Line
from graphflow.engine.maps.driver import MapDriver
from graphflow.engine.messages import Messages
from graphflow.engine.overdue import Expiry, Patience
from graphflow.engine.returned import Returned
from graphflow.engine.run_view import RunView
from graphflow.engine.slots import Slots
from graphflow.engine.steps import Steps
from graphflow.engine.subgraphs import Subgraphs
from graphflow.engine.watchdog import Watchdog
from graphflow.errors import LeaseLost, RunStalled
from graphflow.executors.executor import Executor
from graphflow.executors.table import LOCAL
from graphflow.failpoints import failpoint, told_of_crash
from graphflow.graph.tasks import RunStatus
from graphflow.inputs import Begin, Crashed, Entered, Input, Outcome, RetryDue, Started, Stop
from graphflow.planning.plan import Plan, bits
from graphflow.requests import input_from_request
from graphflow.run import Failure, NodeStatus, Run
from graphflow.settings import DEFAULT_STALL_SECONDS
from graphflow.store.contract import HeldRun, Store
from graphflow.transition import Transition

logger = logging.getLogger(__name__)


class Scheduler:
    """Drives `run`, which was just loaded, until it is over. Bodies that do not run on the event loop run
    in `executors`, by the names that their nodes give."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        store: Store,
        held: HeldRun,
        executors: Mapping[str, Executor],
        *,
        stall_seconds: float = DEFAULT_STALL_SECONDS,
        on_commit: Callable[[], None] = lambda: None,
        make_bodies: Callable[[Drive, RunView, Steps, Messages, Mapping[str, Executor]], Bodies] = Bodies,
    ) -> None:
        self._plan = plan
        self._run = run
        self._on_commit = on_commit
        self._drive = drive = Drive(plan, run, store, held)
        self._line = Line(plan, run, on_left=drive.unpark)
        self._view = RunView(drive)
        self._slots = Slots(drive, self._ended)
        self._steps = Steps(drive, executors[LOCAL])
        self._messages = Messages(drive, self._slots, self._line)
        self._committer = Committer(drive, self._view, self._line)
        self._patience = Patience(drive)
        self._expiry = Expiry(drive)
        bodies = make_bodies(drive, self._view, self._steps, self._messages, executors)
        self._maps = MapDriver(drive, self._line, self._slots, self._committer, bodies)
        self._admission = Admission(drive, self._line, self._slots, bodies)
        self._subgraphs = Subgraphs(drive)
        self._memory = Backpressure(drive)
        self._watchdog = Watchdog(
            drive,
            stall_seconds,
            stands_still=lambda: not drive.is_due and self._stands_still and not self._waits_for_others,
            on_stall=self._stalled,
        )
        self._committing: list[asyncio.Future[None]] = []
        #: The timer that does nothing for the run but end it.
        self._deadline = 0
        self._gave_up = False

    # The loop

    async def drive(self, heartbeat: Heartbeat) -> None:
        """Until the run is over or only waits for signals. LeaseLost or another StoreError if this process may not go on
        with it; RunStalled."""
        lost = LeaseLost(self._run.id, "its lease was not renewed")
        loop = self._drive.loop
        heartbeat.keep(
            self._drive.held.lease,
            lost=lambda: _call_in(loop, self._drive.break_off, lost),
            inbox=lambda waiting: _call_in(loop, self._drive.look_into_inbox),
            call_in_loop=lambda function: _call_in(loop, function),
            at_work=self._slots.at_work,
        )
        try:
            with told_of_crash(partial(_call_in, loop, self._drive.break_off)):
                self._watchdog.start()
                self._enter()
                while not self._is_at_rest and not self._is_drained:
                    await self._turn()
        finally:
            heartbeat.drop(self._drive.held.lease)
            await self._stop_everything()

    def drain(self, grace_seconds: float) -> None:
        """Start nothing more; `drive` returns when what runs has been committed, or dropped after `grace_seconds`."""
        failpoint("drain.begun")
        self._drive.is_draining = True
        self._slots.stop_generators()
        self._drive.timers.after(grace_seconds, self._give_up_draining)
        self._drive.wake()

    @property
    def _is_at_rest(self) -> bool:
        """Nothing is left to do, for good or until somebody outside asks for something."""
        if self._run.status is RunStatus.SUSPENDED:
            return not self._drive.has_requests and not self._drive.has_arrivals
        return self._run.status.is_final

    @property
    def _is_drained(self) -> bool:
        if not self._drive.is_draining:
            return False
        is_idle = self._slots.is_idle and not self._drive.has_arrivals and not self._maps.has_finished
        return self._gave_up or is_idle

    def _give_up_draining(self) -> None:
        self._gave_up = True
        self._drive.wake()

    def _enter(self) -> None:
        """Put what the loaded run has in flight at the entrance that first-time work uses."""
        run = self._run
        for due in self._expiry.overdue():
            self._fold(due)
        self._expiry.enter()
        if run.deaths > run.deaths_counted and run.status is not RunStatus.WAITING:
            self._fold(Crashed())
        self._line.enter_suspects()
        if run.status is RunStatus.WAITING:
            self._drive.arrive(Begin())
        for index in bits(run.active):
            if not self._maps.enter(index) and not self._subgraphs.go_on(index):
                self._admission.enter_node(index)
        self._patience.enter()
        if self._plan.deadline is not None:
            # Whoever started the run may have had another clock.
            spent = max(0.0, now() - run.started) / 1000 if run.started else 0
            stop = Stop(RunStatus.FAILED, f"the run reached deadline={self._plan.deadline:g} s")
            left = self._plan.deadline - spent
            self._deadline = self._drive.timers.after(left, self._drive.arrive, stop)
        self._drive.wake()

    async def _turn(self) -> None:
        await self._wait()
        await self._read_inbox()
        await self._fold_arrived()
        launches = [] if self._run.status.is_final or self._drive.is_paused else self._admit()
        futures, self._committing = self._committing, []
        if (reply := await self._committer.commit()) is not None:
            failpoint("commit.acknowledged")
            self._maps.stored()
            self._on_commit()
            self._memory.note(reply)
            if reply.inbox:
                self._drive.look_into_inbox()
        if self._line.look_at_suspects():
            self._drive.wake()
        for future in futures:
            if not future.done():
                future.set_result(None)
        for attempt in launches:
            self._slots.launch(attempt)
        self._maps.refill_soon()

    def _admit(self) -> list[Attempt]:
        """Attempts to be launched; that they start rides with this commit."""
        admitted = self._admission.admit()
        for attempt in admitted:
            if self._run.nodes[attempt.node.index].modules[attempt.module].status is NodeStatus.READY:
                self._fold(Started(attempt.node.index, attempt.module))
        return admitted

    # Standing still

    async def _wait(self) -> None:
        """Until a turn is due. Whenever there is news meanwhile, nothing may be left that could bring that turn about."""
        while not self._drive.is_due:
            if self._stands_still:
                self._go_on_or_stall()
            if not self._drive.is_due:
                await self._drive.wait_news()
        self._drive.begin_turn()

    @property
    def _stands_still(self) -> bool:
        """Nothing will come but from outside."""
        timers = self._drive.timers
        others = len(self._expiry) + (self._deadline in timers) + self._subgraphs.timers
        has_timers = len(timers) > others
        is_idle = self._slots.is_idle and self._maps.is_idle and not self._messages.is_delivering
        return is_idle and not self._drive.is_busy and not has_timers and not self._awaits_left_behind

    @property
    def _awaits_left_behind(self) -> bool:
        """Something starts when an attempt that was left behind has ended, or is not waited for any longer."""
        nodes = self._slots.blocked_nodes
        if not nodes:
            return False
        waits = any(attempt.node.index in nodes for attempt in self._admission.waiting)
        return waits or self._maps.has_waiting_of(nodes)

    @property
    def _waits_for_others(self) -> bool:
        """Nothing goes on because nothing can: there is no room in the store, or all that is left waits for signals."""
        waits_for_signals = bool(self._run.waits) and not self._waiting_here and not self._maps.has_waiting
        return self._drive.is_full or waits_for_signals

    @property
    def _waiting_here(self) -> list[Attempt]:
        """The attempts that wait for a slot, for their ticket, or for the commit of an older one."""
        return [*self._admission.waiting, *self._maps.waiting, *self._drive.parked]

    def _go_on_or_stall(self) -> None:
        """Nothing is in flight: let others than the suspects run, or end a run that waits for what nothing will send."""
        if self._drive.is_full:
            return
        if self._line.clear_suspects():
            # A suspect waits for what may not run beside it.
            self._drive.wake()
        elif not self._run.waits and (stalled := self._messages.stalled) is not None:
            node, reason = stalled
            self._drive.arrive(self._subgraphs.stop(node, reason) or Stop(RunStatus.FAILED, reason))
        elif not self._waits_for_others:
            failpoint("run.stands_still")

    def _stalled(self) -> None:
        """Nothing goes on, and nobody has seen to it: this process gives the run up, another may do better."""
        self._go_on_or_stall()
        if not self._drive.is_due:
            waits = [self._line.described_wait(attempt) for attempt in self._waiting_here]
            error = RunStalled(self._run.id, waits)
            logger.error("%s", error)
            self._drive.break_off(error)

    # What has arrived

    async def _read_inbox(self) -> None:
        """Requests from outside go before what has arrived from within."""
        drive = self._drive
        if not drive.has_requests:
            return
        drive.has_requests = False
        for text in reversed(await drive.held.take_requests()):
            failpoint("request.taken")
            request = input_from_request(text)
            if request is None:
                logger.warning("run %s: a request that this version does not know is left out", self._run.id)
            else:
                drive.arrive_first(request)

    async def _fold_arrived(self) -> None:
        while not self._run.status.is_final:
            if self._committer.is_full:
                self._drive.wake()
                return
            if self._drive.has_arrivals:
                await self._take(self._drive.next_arrival())
            elif (incoming := await self._maps.next_input()) is not None:
                self._take_input(Arrival(incoming))
            else:
                return

    async def _take(self, arrival: Arrival) -> None:
        """Validate against all outcomes before this one, then fold; what has lost is repeated."""
        attempt = arrival.attempt
        if attempt is None:
            self._take_input(arrival)
            return
        if attempt.stopping:
            self._line.leave(attempt)
            return
        assert attempt.transaction is not None
        if arrival.came_to is None or not attempt.transaction.is_valid(self._view):
            logger.debug("run %s: %s lost a conflict and is repeated", self._run.id, attempt.node.name)
            self._repeat(attempt)
            return
        incoming = await self._resolved(attempt, arrival.came_to)
        if incoming is None:
            return
        if self._fold(incoming, attempt, room=self._room):
            self._maps.folded(attempt, incoming)
            self._line.leave(attempt)
        else:
            self._maps.parked(attempt)
            self._drive.park(arrival)

    async def _resolved(self, attempt: Attempt, came_to: CameTo | Input) -> Input | None:
        """What an attempt came to, with its writes, on the state as it is now. None if that is folded later, with a batch
        of items. Parked, it is resolved again on another state."""
        if not isinstance(came_to, Returned):
            assert came_to is not None
            assert not isinstance(came_to, str)
            return came_to
        writes = {} if came_to.failure is not None else self._committer.resolved(attempt)
        if isinstance(writes, Failure):
            came_to, writes = Returned(failure=writes), {}
        ttls: dict[str, float | None] = {}
        if writes and attempt.transaction is not None:
            ttls = attempt.transaction.resolve_ttls(self._view)
        if attempt.index is None:
            return _outcome(attempt, came_to, writes, ttls)
        if came_to.failure is None:
            outcome = await self._maps.outcome_of(attempt, came_to, writes, ttls)
            if outcome is not None:
                return outcome
        self._maps.conclude(attempt, came_to)
        return None

    def _take_input(self, arrival: Arrival) -> None:
        """What no attempt has come to: a start, a timer, state set at once, a batch of items."""
        incoming = arrival.came_to
        assert incoming is not None
        assert not isinstance(incoming, Returned | str)
        if not self._fold(incoming, arrival.asker):
            self._drive.park(arrival)
        elif arrival.committed is not None:
            self._committing.append(arrival.committed)

    def _fold(self, incoming: Input, attempt: Attempt | None = None, *, room: int = 0) -> bool:
        """False if it has to wait for an older ticket: then nothing has changed."""
        transition = self._committer.fold(incoming, attempt, room=room)
        if transition is not None:
            self._react(transition)
        return transition is not None

    @property
    def _room(self) -> int:
        """Attempts that will be admitted in this turn if they become ready now; where others may come between, none."""
        if self._line.has_suspects or not self._line.is_empty or self._maps.has_open or self._drive.is_paused:
            return 0
        return max(0, self._slots.free - len(self._admission.waiting))

    def _react(self, transition: Transition) -> None:
        """Do outside the run what a transition asks for."""
        for index in bits(transition.stopped):
            self._maps.drop(index)
            self._slots.stop_node(index)
            self._admission.drop_node(index)
        if transition.maps or transition.items_ready:
            self._maps.react(transition)
        if transition.sent:
            self._messages.react(transition)
        if transition.waits:
            self._patience.react(transition)
        if transition.expiring:
            self._expiry.react(transition)
        for index, module in transition.ready:
            self._admission.add(index, module)
        for index, module, retry_at in transition.delayed:
            failpoint("retry.scheduled")
            seconds = (retry_at - now()) / 1000
            self._drive.timers.after(seconds, self._drive.arrive, RetryDue(index, module))
        if self._plan.subgraphs:
            self._subgraphs.react(transition)
            for index in transition.entering:
                self._take_input(Arrival(Entered(index)))

    def _ended(self, attempt: Attempt, came_to: CameTo) -> None:
        """An attempt is over. An item that touched no state need not be validated, nor wait for its turn."""
        if attempt.transaction is None:
            self._maps.plain_ended(attempt, came_to)
            return
        self._messages.drop(attempt)
        if attempt.index is not None:
            self._maps.ended(attempt)
            if isinstance(came_to, Returned) and attempt.transaction.is_empty:
                self._maps.conclude(attempt, came_to)
                return
        self._drive.arrive(came_to, attempt)

    def _repeat(self, attempt: Attempt) -> None:
        """It lost a conflict: again against fresh state, no attempt used, in its place in the line."""
        again = self._line.lost(attempt)
        if attempt.index is not None:
            self._maps.put_back(again)
        else:
            self._admission.put_back(again)

    # The end

    async def _stop_everything(self) -> None:
        self._watchdog.close()
        self._drive.close()
        await self._maps.close()
        await self._memory.close()
        await self._slots.stop_all()
        await self._steps.close()
        for arrival in self._drive.left():
            if arrival.committed is not None:
                arrival.committed.cancel()
            if arrival.attempt is not None and arrival.attempt.feed is not None:
                arrival.attempt.feed.close()
                await arrival.attempt.feed.wait_closed()


def _outcome(
    attempt: Attempt,
    returned: Returned,
    writes: dict[str, str | None],
    ttls: dict[str, float | None],
) -> Outcome:
    """What a module run comes to. A function's result is also the state key with its node's name."""
    place = attempt.node.index, attempt.module, attempt.visit
    if returned.failure is not None:
        return Outcome(*place, failure=returned.failure)
    if attempt.is_function:
        writes[attempt.node.name] = returned.result
        ttls.pop(attempt.node.name, None)
    assert attempt.transaction is not None
    return Outcome(
        *place,
        returned.result,
        decision=returned.decision,
        writes=writes,
        ttls=ttls,
        sent=attempt.transaction.outgoing,
        taken=attempt.transaction.taken,
    )


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """From another thread; a loop that is closed by then needs no news."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)
