"""A run's state in memory and a small scheduler over it: the protocol between transactions, tickets and commits.

This is the reference for the scheduler of the engine, without nodes, Redis and asyncio: bodies are coroutines that a
drawn schedule drives by hand. One attempt goes through these stations:

1. Admission, when a slot is free. If the line is not empty and its kind needs a ticket, it takes one (once; repeats
   keep it). With a ticket that may not start yet it waits, holding no slot. When it starts: `started`, new Transaction.
2. The body runs. A read that finds an earlier read overtaken raises Overtaken. When the body ends, the slot is free and
   the transaction takes no more calls (`end`): a task that the body left behind must not change what is committed.
3. Validation, when the outcome is taken, in order of arrival, against the mirror with all outcomes before it applied.
   Not valid, or Overtaken: `conflict` with the footprint, close, back to 1 with the same ticket. This comes before any
   look at exceptions: an exception over stale reads is a conflict too.
4. `resolve` on the same mirror; nothing may come between this and 6.
5. If the line is not empty: would the change disturb an older running ticket (`holds`)? Then `park` gives the attempt a
   ticket if it has none, and it goes back to 3 whenever a ticket was stopped or has left. Validated anew, resolved anew.
6. Apply to the mirror at once, then close the transaction and `leave` the line. What is applied counts as committed for
   everybody who reads: if the store refuses, the mirror and all transactions over it are dropped together. A scheduler
   that applied only at the acknowledgement could not keep the promise of three conflicts: a commit under way would
   change what a ticket that has just started reads.

`immediate=True` is an outcome of its own without reads: 5 and 6, with the ticket of the module run that asked for it,
else with one of its own if it has to be parked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any

from graphflow.codec import decode, encode
from graphflow.errors import StateError
from graphflow.graph.tasks import Task
from graphflow.state.claims import Claims
from graphflow.state.footprint import Footprint
from graphflow.state.isolation import Overtaken
from graphflow.state.tickets import Ticket, TicketLine
from graphflow.state.transaction import Transaction


class MemoryState:
    """A StateView over dicts. `change` is what a commit does to it."""

    prefix = ""
    borders = ()

    def __init__(self, **values: Any) -> None:
        self.texts = {key: encode(value) for key, value in values.items()}
        #: Keys with an end; when that comes is up to a test.
        self.expiring: set[str] = set()
        self.revisions = dict.fromkeys(self.texts, 1)
        self.revision = 1
        self.keys_revision = 1
        self.claims = Claims()
        self.nodes: dict[str, tuple[str | None, int]] = {}
        self.maps: dict[str, list[tuple[int, str]] | None] = {}
        self.task_value = Task(type="test", params={"n": 1})
        self.on_set_now: Callable[[str, str], Awaitable[None]] | None = None

    def text(self, key: str) -> str | None:
        return self.texts.get(key)

    def key_revision(self, key: str) -> int:
        return self.revisions.get(key, 0)

    def keys(self) -> Collection[str]:
        return self.texts.keys()

    def node_text(self, name: str) -> str | None:
        return self.nodes[name][0]

    def node_revision(self, name: str) -> int:
        return self.nodes[name][1]

    def has_records(self, name):
        return self.is_map(name)

    def is_map(self, name: str) -> bool:
        return name in self.maps

    def has_map_results(self, name: str) -> bool:
        return self.maps[name] is not None

    async def map_pages(self, name: str) -> AsyncIterator[list[tuple[int, str]]]:
        for record in self.maps[name] or ():
            yield [record]

    def task(self) -> Task:
        return self.task_value.model_copy(deep=True)

    async def set_now(self, key: str, text: str, ttl: float | None, asker: object) -> None:
        if self.on_set_now is None:
            self.change({key: text})
        else:
            await self.on_set_now(key, text)

    def change(self, writes: dict[str, str | None]) -> None:
        """Apply a commit: one outcome, one revision."""
        self.revision += 1
        if self.changes_keys(writes):
            self.keys_revision = self.revision
        for key, text in writes.items():
            self.revisions[key] = self.revision
            if text is None:
                self.texts.pop(key, None)
            else:
                self.texts[key] = text

    def changes_keys(self, writes: dict[str, str | None]) -> bool:
        return any((text is not None) != (key in self.texts) for key, text in writes.items())

    def set(self, key: str, value: Any) -> None:
        self.change({key: encode(value)})

    def set_node(self, name: str, value: Any) -> None:
        self.revision += 1
        self.nodes[name] = (encode(value), self.revision)

    def set_map(self, name: str, results: list[Any] | None) -> None:
        self.revision += 1
        self.nodes[name] = (None, self.revision)
        self.maps[name] = None if results is None else [(i, encode(value)) for i, value in enumerate(results)]

    def values(self) -> dict[str, Any]:
        return {key: decode(text) for key, text in self.texts.items()}


class Pause:
    """Gives the others a turn; with a condition, until it holds."""

    def __init__(self, until: Callable[[], bool] = lambda: True) -> None:
        self.until = until

    def __await__(self) -> Generator[Pause, None, None]:
        yield self


Body = Callable[[Transaction], Coroutine[Pause, None, Any]]


@dataclass(eq=False)
class Attempt:
    """One module run, through all its repeats."""

    body: Body
    kind: str
    outputs: tuple[str, ...] = ()
    ticket: Ticket | None = None
    conflicts: int = 0
    transaction: Transaction | None = None
    result: Any = None
    error: Exception | None = None
    overtaken: bool = False
    steps: Any = None
    waits_for: Callable[[], bool] = lambda: True
    is_done: bool = False


@dataclass(eq=False)
class _SetNow:
    """An immediate set on its way."""

    writes: dict[str, str | None]
    asked_by: Attempt
    ticket: Ticket | None = None
    is_done: bool = False


@dataclass
class MiniScheduler:
    """Runs module runs over one state. `choose(n)` draws the next of n that could take a step."""

    state: MemoryState
    slots: int
    choose: Callable[[int], int]
    line: TicketLine = field(default_factory=TicketLine)
    ready: list[Attempt] = field(default_factory=list)
    running: list[Attempt] = field(default_factory=list)
    parked: list[Attempt | _SetNow] = field(default_factory=list)
    committed: list[Attempt] = field(default_factory=list)
    #: Called after each commit, to start more.
    on_commit: Callable[[Attempt], None] = lambda attempt: None
    _stepping: Attempt | None = None

    def __post_init__(self) -> None:
        self.state.on_set_now = self._set_now

    def add(self, body: Body, kind: str = "module", outputs: tuple[str, ...] = ()) -> Attempt:
        attempt = Attempt(body, kind, outputs)
        self.ready.append(attempt)
        return attempt

    def run(self, max_steps: int = 100_000) -> list[Attempt]:
        """Until all are done; the attempts in commit order. Fails if nothing can move any more."""
        try:
            for _ in range(max_steps):
                self._admit()
                if not self.ready and not self.running and not self.parked:
                    assert not self.line._line, "a ticket was left behind"
                    return self.committed
                movable = [attempt for attempt in self.running if attempt.waits_for()]
                assert movable, "deadlock: nothing can take a step"
                self._step(movable[self.choose(len(movable))])
            raise AssertionError("it does not come to an end")
        finally:
            for attempt in self.running:
                attempt.steps.close()

    def _admit(self) -> None:
        for attempt in list(self.ready):
            if len(self.running) >= self.slots:
                return
            if self._may_start(attempt):
                self.ready.remove(attempt)
                self.running.append(attempt)
                attempt.overtaken = False
                attempt.transaction = Transaction(self.state)
                attempt.steps = attempt.body(attempt.transaction)

    def _may_start(self, attempt: Attempt) -> bool:
        if self.line.is_empty:
            return True
        if attempt.ticket is None and self.line.needs_ticket(attempt.kind):
            attempt.ticket = self.line.take(attempt, attempt.kind, attempt.outputs)
        if attempt.ticket is None:
            return True
        if not self.line.may_start(attempt.ticket):
            return False
        self.line.started(attempt.ticket)
        return True

    def _step(self, attempt: Attempt) -> None:
        self._stepping = attempt
        attempt.waits_for = lambda: True
        try:
            attempt.waits_for = attempt.steps.send(None).until
            return
        except StopIteration as end:
            attempt.result, attempt.error = end.value, None
        except Overtaken:
            attempt.overtaken = True
        except Exception as error:
            attempt.error = error
        assert attempt.transaction is not None
        attempt.transaction.end()
        self.running.remove(attempt)
        self._take(attempt)

    def _take(self, attempt: Attempt) -> None:
        transaction = attempt.transaction
        assert transaction is not None
        if attempt.overtaken or not transaction.is_valid(self.state):
            self._conflict(attempt, transaction)
            return
        writes: dict[str, str | None] = {}
        if attempt.error is None:
            try:
                writes = transaction.resolve(self.state)
            except StateError as error:
                attempt.error = error
        if self._is_held(writes, attempt.ticket):
            attempt.ticket = self.line.park(attempt.ticket, attempt, attempt.kind, transaction.footprint())
            self.parked.append(attempt)
            return
        self.state.change(writes)
        transaction.close()
        attempt.is_done = True
        self.committed.append(attempt)
        if attempt.ticket is not None:
            self.line.leave(attempt.ticket, transaction.footprint().writes)
        self._unpark()
        self.on_commit(attempt)

    def _conflict(self, attempt: Attempt, transaction: Transaction) -> None:
        attempt.conflicts += 1
        attempt.ticket = self.line.conflict(attempt.ticket, attempt, attempt.kind, transaction.footprint())
        transaction.close()
        self.ready.insert(0, attempt)
        self._unpark()

    def _is_held(self, writes: dict[str, str | None], ticket: Ticket | None) -> bool:
        return not self.line.is_empty and self.line.holds(
            writes, self.state.changes_keys(writes), than=ticket
        )

    def _unpark(self) -> None:
        parked, self.parked = self.parked, []
        for each in parked:
            if isinstance(each, Attempt):
                self._take(each)
            else:
                self._take_set_now(each)

    async def _set_now(self, key: str, text: str) -> None:
        assert self._stepping is not None
        asked = _SetNow({key: text}, self._stepping)
        self._take_set_now(asked)
        while not asked.is_done:
            await Pause(until=lambda: asked.is_done)

    def _take_set_now(self, asked: _SetNow) -> None:
        ticket = asked.ticket or asked.asked_by.ticket
        if self._is_held(asked.writes, ticket):
            if ticket is None:
                asked.ticket = self.line.park(
                    None, asked, "immediate", Footprint(writes=frozenset(asked.writes))
                )
            self.parked.append(asked)
            return
        self.state.change(asked.writes)
        asked.is_done = True
        if asked.ticket is not None:
            self.line.leave(asked.ticket)
        self._unpark()


def run_alone(state: MemoryState, body: Body) -> Any:
    """Run one body with nobody beside it, to the end; its result. What it raises, and what cannot be stored, passes."""
    transaction = Transaction(state)
    steps = body(transaction)
    try:
        while True:
            steps.send(None)
    except StopIteration as end:
        assert transaction.is_valid(state)
        state.change(transaction.resolve(state))
        transaction.close()
        return end.value
