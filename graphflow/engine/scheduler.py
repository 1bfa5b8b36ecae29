"""Drives one run while it holds the run's lease: admits attempts to slots, validates what they come to, commits.

One turn of the loop: take the outcomes that have arrived, check each against those before it, fold it into the mirror,
admit what is ready to free slots, and send everything as one commit. What was admitted starts when the commit is
acknowledged. Outcomes that arrive meanwhile wait for the next turn, so that commits grow with the load (group commit).

Failure at each point: before the commit is sent, nothing has happened and a resume runs the attempt again; if the reply
is lost, the store sends the same commit under the same operation id until it is answered; if the commit is refused, the
mirror is worthless and so is every transaction over it: the caller drops this scheduler and loads the run anew.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphflow.caches.footprint import node_key
from graphflow.caches.transaction import Overtaken, Transaction
from graphflow.engine.advance import advance, apply, backoff_seconds
from graphflow.engine.attempt import Attempt, failure_from, run_attempt
from graphflow.engine.maps import MapItems, merged_results, read_items
from graphflow.engine.mirror import Mirror
from graphflow.engine.plan import Plan, bits
from graphflow.engine.tickets import TicketLine
from graphflow.errors import GraphflowError, LeaseLost, StateError
from graphflow.executors.inline import InlineExecutor
from graphflow.failpoints import failpoint
from graphflow.graph.tasks import RunStatus
from graphflow.run import (
    Begin,
    Failure,
    Input,
    ItemOutcomes,
    ItemsStored,
    NodeStatus,
    Outcome,
    RetryDue,
    Run,
    Started,
    StateSet,
    Stop,
    Transition,
)
from graphflow.store.contract import Batch, Lease, Store

if TYPE_CHECKING:
    from graphflow.engine.heartbeat import Heartbeat

logger = logging.getLogger(__name__)

#: Writes and bytes after which a commit takes no further outcome.
COMMIT_OPERATIONS = 1_000
COMMIT_BYTES = 1_000_000
#: Items started before the loop gets a turn.
BURST_ITEMS = 32
#: Seconds that cancelled module runs get to end before they are left behind.
STOP_SECONDS = 5.0


@dataclass(slots=True)
class Arrival:
    """Something to fold. `outcome` is None for an attempt that found itself overtaken."""

    outcome: Input | None
    attempt: Attempt | None = None
    #: Set when the outcome is committed.
    committed: asyncio.Future[None] | None = None


@dataclass(slots=True)
class _Turn:
    """What one turn gathers."""

    batch: Batch
    expected: int
    launches: list[Attempt] = field(default_factory=list)
    committed: list[asyncio.Future[None]] = field(default_factory=list)


class Scheduler:
    """Drives `run`, which was just loaded under `lease`, until it is over."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        store: Store,
        lease: Lease,
        *,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self.run = run
        self._store = store
        self._lease = lease
        self._on_commit = on_commit
        self._mirror = Mirror(plan, run, store, self._set_now)
        self._tickets = TicketLine()
        self._semaphore = asyncio.Semaphore(plan.max_concurrent_tasks)
        self._executor = InlineExecutor(plan.max_concurrent_tasks)
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._random = random.Random()
        self._free = plan.max_concurrent_tasks
        self._ready: deque[Attempt] = deque()
        self._arrived: deque[Arrival] = deque()
        self._parked: list[Arrival] = []
        self._running: set[Attempt] = set()
        self._maps: dict[int, MapItems] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._timer_number = 0
        self._loading: set[asyncio.Task[None]] = set()
        self._refill_due = False
        self._closing = False
        self._broken: BaseException | None = None
        self._wake = asyncio.Event()

    # The loop

    async def drive(self, heartbeat: Heartbeat) -> None:
        """Until the run is over. LeaseLost or another StoreError if this process may not go on with it."""
        loop = self._loop
        heartbeat.keep(
            self._lease,
            lost=lambda: _call_in(loop, self._break, LeaseLost(self.run.id, "its lease was not renewed")),
            inbox=lambda waiting: None,
        )
        try:
            with self._executor:
                self._enter()
                while not self.run.status.is_final:
                    await self._turn()
        finally:
            heartbeat.drop(self._lease)
            await self._stop_everything()

    def _enter(self) -> None:
        """Put what the loaded run has in flight back at the entrance that first-time work uses."""
        if self.run.status is RunStatus.WAITING:
            self._arrive(Begin())
        for index in bits(self.run.active):
            self._enter_node(index)
        if self.plan.deadline is not None:
            started = self.run.started or _now()
            left = self.plan.deadline - (_now() - started) / 1000
            reason = f"the run reached deadline={self.plan.deadline:g} s"
            self._timer(left, Stop(RunStatus.FAILED, reason))
        self._wake.set()

    def _enter_node(self, index: int) -> None:
        node, state = self.plan.nodes[index], self.run.nodes[index]
        current = self.run.maps.get(index)
        if node.map is not None and current is not None and current.visit == state.visits:
            self._open_map(index)
            return
        for place, module in enumerate(state.modules):
            if module.status is NodeStatus.WAITING:
                self._timer((module.retry_at - _now()) / 1000, RetryDue(index, place))
            elif module.status in (NodeStatus.READY, NodeStatus.RUNNING):
                module.status = NodeStatus.READY
                self._ready.append(Attempt(node, place, state.visits))

    async def _turn(self) -> None:
        await self._wait()
        turn = _Turn(self._store.batch(self.plan, self.run.id), self.run.revision)
        await self._fold_arrived(turn)
        if not self.run.status.is_final:
            self._admit(turn)
        if not turn.batch.is_empty:
            failpoint("commit.before")
            await self._store.commit(self._lease, turn.batch, expected=turn.expected, revision=self.run.revision)
            self._on_commit()
        for future in turn.committed:
            if not future.done():
                future.set_result(None)
        for attempt in turn.launches:
            self._launch(attempt)
        self._refill()

    async def _wait(self) -> None:
        if not self._arrived and not self._wake.is_set() and not self._is_alive():
            raise GraphflowError(f"run {self.run.id!r}: nothing is in flight, yet the run is not over")
        await self._wake.wait()
        self._wake.clear()
        if self._broken is not None:
            raise self._broken

    def _is_alive(self) -> bool:
        return bool(self._running or self._timers or self._loading)

    async def _fold_arrived(self, turn: _Turn) -> None:
        batch = turn.batch
        while not self.run.status.is_final:
            if batch.operations >= COMMIT_OPERATIONS or batch.size >= COMMIT_BYTES:
                self._wake.set()
                return
            if self._arrived:
                await self._take(self._arrived.popleft(), turn)
                continue
            items = next((items for items in self._maps.values() if items.has_finished), None)
            if items is None:
                return
            outcome = items.take_finished()
            await self._add_results(items, outcome)
            self._fold(Arrival(outcome), turn)

    async def _take(self, arrival: Arrival, turn: _Turn) -> None:
        attempt = arrival.attempt
        if attempt is None:
            self._fold(arrival, turn)
            return
        assert attempt.transaction is not None
        if attempt.stopping:
            self._leave(attempt)
        elif arrival.outcome is None or not attempt.transaction.is_valid(self._mirror):
            self._conflict(attempt)
        elif attempt.is_item:
            await self._take_item(attempt, arrival, turn)
        else:
            self._resolve(attempt, arrival.outcome)
            if self._fold(arrival, turn):
                self._leave(attempt)

    async def _take_item(self, attempt: Attempt, arrival: Arrival, turn: _Turn) -> None:
        """An item that read or wrote state is an outcome of its own, in its place among the others."""
        outcome, items = arrival.outcome, self._items_of(attempt)
        assert isinstance(outcome, Outcome)
        assert attempt.index is not None
        self._resolve(attempt, outcome)
        if items is None or outcome.failure is not None:
            self._item_failed(attempt, outcome.failure)
            return
        assert outcome.result is not None
        item = ItemOutcomes(attempt.node.index, attempt.visit, [(attempt.index, outcome.result)], writes=outcome.writes)
        await self._add_results(items, item)
        if self._fold(Arrival(item, attempt), turn, parked=arrival):
            self._leave(attempt)

    def _resolve(self, attempt: Attempt, outcome: Input) -> None:
        """Turn buffered operations into final texts on the state as it is now; what does not apply is a failure."""
        if not isinstance(outcome, Outcome) or outcome.failure is not None:
            return
        transaction = attempt.transaction
        assert transaction is not None
        try:
            outcome.writes = transaction.resolve(self._mirror)
        except StateError as error:
            outcome.failure = Failure(type(error).__name__, str(error), retryable=False)
            outcome.result = None
            return
        if attempt.is_function and not attempt.is_item:
            outcome.writes[attempt.node.name] = outcome.result

    def _fold(self, arrival: Arrival, turn: _Turn, parked: Arrival | None = None) -> bool:
        """Fold one outcome into the mirror and the batch; False if it has to wait for an older ticket."""
        assert arrival.outcome is not None
        transition = advance(self.plan, self.run, arrival.outcome, _now(), self._random.random())
        if not self._tickets.is_empty and self._disturbs(transition, arrival.attempt):
            self._parked.append(parked or arrival)
            return False
        self._store_transition(transition, turn)
        if arrival.committed is not None:
            turn.committed.append(arrival.committed)
        return True

    def _disturbs(self, transition: Transition, attempt: Attempt | None) -> bool:
        """Whether this would change what an older running ticket reads; then its attempt takes its place in the line."""
        changed = [*transition.state, *self._changed_results(transition)]
        changes_keys = any((text is None) != (key not in self.run.state) for key, text in transition.state.items())
        ticket = attempt.ticket if attempt is not None else None
        if not self._tickets.holds(changed, changes_keys, than=ticket):
            return False
        if attempt is not None and attempt.transaction is not None:
            attempt.ticket = self._tickets.park(ticket, attempt, attempt.kind, attempt.transaction.footprint())
        return True

    def _changed_results(self, transition: Transition) -> list[str]:
        return [
            node_key(self.plan.nodes[index].name)
            for index, state in transition.nodes.items()
            if state.changed != self.run.nodes[index].changed
        ]

    def _store_transition(self, transition: Transition, turn: _Turn) -> None:
        turn.batch.add(self.run, transition)
        apply(self.run, transition, self.plan)
        for index in bits(transition.stopped):
            self._stop_node(index)
        for index, change in transition.maps.items():
            if change.opened is not None and self.run.nodes[index].status is NodeStatus.RUNNING:
                self._open_map(index)
            elif self.run.nodes[index].status is not NodeStatus.RUNNING:
                self._maps.pop(index, None)
        for index, place in transition.ready:
            self._ready.append(Attempt(self.plan.nodes[index], place, self.run.nodes[index].visits))
        for index, place, retry_at in transition.delayed:
            self._timer((retry_at - _now()) / 1000, RetryDue(index, place))

    async def _add_results(self, items: MapItems, outcome: ItemOutcomes) -> None:
        if self._is_last(items, outcome) and self.plan.maps_in_expressions & items.node.bit:
            stored = self._store.results(self.run.id, items.node.name)
            outcome.results = await merged_results(stored, outcome.done)

    def _is_last(self, items: MapItems, outcome: ItemOutcomes) -> bool:
        return len(self.run.maps[items.node.index].unfinished) == len(outcome.done) + len(outcome.failed)

    # Admission

    def _admit(self, turn: _Turn) -> None:
        """Give free slots to ready attempts; their start rides with this commit."""
        for _ in range(len(self._ready)):
            if self._free <= 0:
                return
            attempt = self._ready.popleft()
            if not self._may_start(attempt):
                self._ready.append(attempt)
                continue
            self._free -= 1
            state = self.run.nodes[attempt.node.index].modules[attempt.module]
            if state.status is NodeStatus.READY:
                started = Started(attempt.node.index, attempt.module)
                self._store_transition(advance(self.plan, self.run, started, _now(), 0), turn)
            turn.launches.append(attempt)

    def _may_start(self, attempt: Attempt) -> bool:
        if self._tickets.is_empty:
            return True
        if attempt.ticket is None:
            if not self._tickets.needs_ticket(attempt.kind):
                return True
            attempt.ticket = self._tickets.take(attempt, attempt.kind, attempt.node.config.outputs)
        if not self._tickets.may_start(attempt.ticket):
            return False
        self._tickets.started(attempt.ticket)
        return True

    def _refill(self) -> None:
        """Start items in free slots, a burst at a time; the rest when the loop has had a turn."""
        self._refill_due = False
        burst = 0
        for items in list(self._maps.values()):
            self._load_page(items)
            tries = items.queued
            while tries and self._free > 0 and items.may_start and not self._closing:
                if burst == BURST_ITEMS:
                    self._refill_soon()
                    return
                tries -= 1
                attempt = items.take()
                if not self._may_start(attempt):
                    items.postpone(attempt)
                    continue
                burst += 1
                self._free -= 1
                self._launch(attempt)

    def _refill_soon(self) -> None:
        if not self._refill_due:
            self._refill_due = True
            self._loop.call_soon(self._refill, context=self._context)

    def _launch(self, attempt: Attempt) -> None:
        attempt.transaction = Transaction(self._mirror)
        if attempt.index is not None:
            attempt.transaction.set_item(attempt.index, attempt.text)
        self._running.add(attempt)
        name = f"{self.run.id}/{attempt.node.name}"
        attempt.task = self._loop.create_task(self._execute(attempt), name=name, context=self._context.copy())

    async def _execute(self, attempt: Attempt) -> None:
        outcome: Input | None = None
        try:
            outcome = await (self._read_source(attempt) if attempt.reads_source else self._run_body(attempt))
        except Overtaken:
            pass
        except asyncio.CancelledError:
            self._leave(attempt)
            return
        finally:
            self._free += 1
            self._running.discard(attempt)
        if attempt.is_item:
            self._item_ended(attempt, outcome)
        else:
            self._arrive(outcome, attempt)
        if self._maps:
            self._refill_soon()

    async def _run_body(self, attempt: Attempt) -> Outcome:
        node, transaction = attempt.node, attempt.transaction
        assert transaction is not None
        returned = await run_attempt(
            node,
            node.modules[attempt.module],
            transaction,
            self._semaphore,
            self._executor,
            lambda: attempt.stopping,
        )
        return Outcome(node.index, attempt.module, attempt.visit, returned.result, returned.failure, returned.decision)

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

    def _item_ended(self, attempt: Attempt, outcome: Input | None) -> None:
        """The short path of an item that touched no state: nothing to validate, folded with its batch."""
        items = self._items_of(attempt)
        if items is not None:
            items.ended()
        assert attempt.index is not None
        assert attempt.transaction is not None
        if not isinstance(outcome, Outcome) or not attempt.transaction.is_empty:
            self._arrive(outcome, attempt)
        elif items is None or outcome.failure is not None or outcome.result is None:
            self._item_failed(attempt, outcome.failure)
        else:
            items.succeeded(attempt.index, outcome.result)
            self._leave(attempt)
            self._wake.set()

    def _items_of(self, attempt: Attempt) -> MapItems | None:
        """The items that this attempt belongs to; None if their visit is over."""
        items = self._maps.get(attempt.node.index)
        return items if items is not None and items.visit == attempt.visit else None

    def _item_failed(self, attempt: Attempt, failure: Failure | None) -> None:
        items = self._items_of(attempt)
        self._leave(attempt)
        self._wake.set()
        if items is None or failure is None:
            return
        assert attempt.index is not None
        attempts = items.failed(attempt.index, failure)
        if attempts is not None:
            self._after(backoff_seconds(attempts, self._random.random()), self._retry_item, items, attempt.again())

    def _retry_item(self, items: MapItems, attempt: Attempt) -> None:
        items.put_back(attempt)
        self._refill()

    # Conflicts

    def _conflict(self, attempt: Attempt) -> None:
        """The attempt lost: it is repeated against fresh state, no attempt used, in its place in the line."""
        assert attempt.transaction is not None
        logger.debug("run %s: %s lost a conflict and is repeated", self.run.id, attempt.node.name)
        footprint = attempt.transaction.footprint()
        attempt.transaction.close()
        attempt.ticket = self._tickets.conflict(attempt.ticket, attempt, attempt.kind, footprint)
        if not attempt.is_item:
            self._ready.appendleft(attempt.again())
        elif (items := self._items_of(attempt)) is not None:
            items.put_back(attempt.again())
            self._refill_soon()
        self._unpark()

    def _leave(self, attempt: Attempt) -> None:
        """The attempt is over for good; whoever waited for its ticket may go on."""
        written: Iterable[str] = ()
        if attempt.transaction is not None:
            written = attempt.transaction.footprint().writes if attempt.ticket is not None else ()
            attempt.transaction.close()
        if attempt.ticket is not None:
            self._tickets.leave(attempt.ticket, written)
            attempt.ticket = None
            self._unpark()
            if self._maps:
                self._refill_soon()

    def _unpark(self) -> None:
        if self._parked:
            self._arrived.extendleft(reversed(self._parked))
            self._parked.clear()
        self._wake.set()

    # Maps

    def _open_map(self, index: int) -> None:
        self._maps[index] = MapItems(self.plan.nodes[index], self.run.maps[index])
        self._refill_soon()

    def _load_page(self, items: MapItems) -> None:
        if items.needs_page and not self._closing:
            items.is_loading = True
            task = self._loop.create_task(self._read_page(items), context=self._context.copy())
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)

    async def _read_page(self, items: MapItems) -> None:
        indexes = items.next_page()
        try:
            items.add_page(indexes, await self._store.items(self.run.id, items.node.name, indexes))
        except Exception as error:
            self._break(error)
        items.is_loading = False
        self._refill_soon()

    # What comes from outside the attempts

    async def _set_now(self, key: str, text: str) -> None:
        committed = self._loop.create_future()
        self._arrived.append(Arrival(StateSet({key: text}), committed=committed))
        self._wake.set()
        await committed

    def _arrive(self, outcome: Input | None, attempt: Attempt | None = None) -> None:
        self._arrived.append(Arrival(outcome, attempt))
        self._wake.set()

    def _timer(self, seconds: float, outcome: Input) -> None:
        self._after(seconds, self._arrive, outcome)

    def _after(self, seconds: float, action: Callable[..., None], *arguments: object) -> None:
        number = self._timer_number = self._timer_number + 1

        def fire() -> None:
            del self._timers[number]
            action(*arguments)

        self._timers[number] = self._loop.call_later(max(0.0, seconds), fire, context=self._context)

    def _break(self, error: BaseException) -> None:
        self._broken = self._broken or error
        self._wake.set()

    def _stop_node(self, index: int) -> None:
        self._maps.pop(index, None)
        for attempt in [attempt for attempt in self._running if attempt.node.index == index]:
            self._stop_attempt(attempt)
        self._ready = deque(attempt for attempt in self._ready if attempt.node.index != index)

    def _stop_attempt(self, attempt: Attempt) -> None:
        attempt.stopping = True
        if attempt.task is not None:
            attempt.task.cancel()

    async def _stop_everything(self) -> None:
        self._closing = True
        self._maps.clear()
        for timer in self._timers.values():
            timer.cancel()
        tasks = [attempt.task for attempt in self._running if attempt.task is not None]
        for attempt in list(self._running):
            self._stop_attempt(attempt)
        for task in self._loading:
            task.cancel()
        pending = [*tasks, *self._loading]
        if pending:
            _, left = await asyncio.wait(pending, timeout=STOP_SECONDS)
            for task in left:
                logger.warning("run %s: %s ignores its cancellation and is left behind", self.run.id, task.get_name())
        for arrival in (*self._arrived, *self._parked):
            if arrival.committed is not None and not arrival.committed.done():
                arrival.committed.cancel()


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """From another thread; a loop that is closed by then needs no news."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)


def _now() -> float:
    """Milliseconds since 1970."""
    return round(time.time() * 1000, 3)
