"""Who goes first after a conflict, so that every module run commits after at most three, whatever the others do?

A module run that lost a conflict holds a ticket, its place in a line, and so do later runs of its kind (its module
class or function), which take theirs when they would start. A run without a ticket is younger than all tickets.

* A ticket may start when no older one needs what it needs: reading together is fine, reading what another writes is not.
* While it runs, nothing younger may commit a change of what it reads: such a commit is parked until it is done.
* A parked run takes a ticket too, so that tickets that come later cannot keep it waiting for ever.
* From the third conflict on a ticket covers the whole state: it starts as the oldest of all, and then nothing that it
  could have read is changed under it.

A ticket waits only for older ones, and what waits holds no slot, so there is no deadlock. Pure bookkeeping: the
scheduler asks and does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field

from graphflow.state.footprint import KEY_SET, WHOLE_STATE, Footprint

#: Conflicts of one module run after which its ticket covers the whole state.
CONFLICTS_UNTIL_WHOLE = 3


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in the line. `reads` and `writes` are in the words of `Footprint`."""

    position: int
    owner: Hashable
    kind: str
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    #: It covers the whole state.
    whole: bool = False
    conflicts: int = 0


_Needs = tuple[set[str], set[str]]


class TicketLine:
    """All tickets of one run, oldest first. While `is_empty`, nothing need be asked."""

    def __init__(self) -> None:
        self._next_position = 0
        self._line: OrderedDict[Ticket, None] = OrderedDict()
        #: What a kind is known to read and write, of the keys over which it has lost.
        self._kinds: dict[str, tuple[set[str], set[str]]] = {}
        self._readers = _Index()
        self._writers = _Index()
        self._whole = _Index()
        #: Running tickets by what they read.
        self._held: dict[str, set[Ticket]] = {}

    @property
    def is_empty(self) -> bool:
        """True if there is no ticket and no module run has lost a conflict so far."""
        return not self._line and not self._kinds

    def needs_ticket(self, kind: str) -> bool:
        """Whether a run of this kind takes a ticket when it would start."""
        return kind in self._kinds

    def take(self, owner: Hashable, kind: str, outputs: Iterable[str] = ()) -> Ticket:
        """A ticket at the end of the line, for what is known of its kind and the outputs that its node declares."""
        reads, writes = self._kinds.get(kind, ((), ()))
        ticket = Ticket(self._next_position, owner, kind)
        self._next_position += 1
        self._line[ticket] = None
        self._widen(ticket, reads, (*writes, *outputs))
        return ticket

    def may_start(self, ticket: Ticket) -> bool:
        """Whether no older ticket, running or waiting, needs what this one needs."""
        if ticket.whole:
            return next(iter(self._line)) is ticket
        return not (
            self._whole.has_older(WHOLE_STATE, ticket)
            or any(self._writers.has_older(key, ticket) for key in ticket.reads)
            or any(self._readers.has_older(key, ticket) for key in ticket.writes)
        )

    def waits_for(self, ticket: Ticket) -> Ticket | None:
        """The oldest ticket that keeps this one from starting; None if nothing does. Slow: for messages to people."""
        older = (each for each in self._line if each.position < ticket.position)
        if ticket.whole:
            return next(older, None)
        needed = (ticket.reads, ticket.writes)
        return next(
            (each for each in older if each.whole or _interfere(needed, (each.reads, each.writes))), None
        )

    def started(self, ticket: Ticket) -> None:
        """Its module run is under way: what it reads is held for it from now on."""
        for key in _held_by(ticket):
            self._held.setdefault(key, set()).add(ticket)

    def stopped(self, ticket: Ticket) -> None:
        """Its module run is not under way any more and will be repeated; the ticket keeps its place."""
        for key in _held_by(ticket):
            holders = self._held.get(key)
            if holders is not None:
                holders.discard(ticket)
                if not holders:
                    del self._held[key]

    def holds(self, keys: Collection[str], keyset_changes: bool, than: Ticket | None) -> bool:
        """Whether a commit that changes `keys` (state keys, and `node_key` of results) must be parked: it would change
        what a running ticket older than `than` reads. Without a ticket of its own it is younger than all."""
        if not keys or not self._held:
            return False
        changed = (*keys, WHOLE_STATE, KEY_SET) if keyset_changes else (*keys, WHOLE_STATE)
        return any(_is_older(holder, than) for key in changed for holder in self._held.get(key, ()))

    def park(self, ticket: Ticket | None, owner: Hashable, kind: str, footprint: Footprint) -> Ticket:
        """The commit of `owner` has to wait: it gets a ticket if it has none, and what it has read is held for it."""
        self._learn(kind, footprint)
        ticket = ticket or self.take(owner, kind)
        self.stopped(ticket)
        self._widen(ticket, footprint.reads, footprint.writes)
        self.started(ticket)
        return ticket

    def conflict(self, ticket: Ticket | None, owner: Hashable, kind: str, footprint: Footprint) -> Ticket:
        """The run of `owner` has lost and is to be repeated: its ticket now covers all that it is known to need.

        Its kind learns the keys that were lost, and which of them it writes; not the others, which may be different
        for every run of the kind.
        """
        self._kinds.setdefault(kind, (set(), set()))
        self._learn(kind, footprint)
        ticket = ticket or self.take(owner, kind)
        self.stopped(ticket)
        ticket.owner = owner
        ticket.conflicts += 1
        self._widen(ticket, footprint.reads, footprint.writes)
        if ticket.conflicts >= CONFLICTS_UNTIL_WHOLE and not ticket.whole:
            ticket.whole = True
            self._whole.add(WHOLE_STATE, ticket)
        return ticket

    def leave(self, ticket: Ticket, written: Iterable[str] = ()) -> None:
        """It committed, failed, or gave up its place (back-off, waiting for a message). Leaving twice is no error.

        From `written`, `Footprint.writes` of its run, its kind learns which of the keys it loses it also writes: a run
        that was stopped at a read may not have come to its writes.
        """
        if ticket not in self._line:
            return
        self._learn(ticket.kind, Footprint(writes=frozenset(written)))
        self.stopped(ticket)
        del self._line[ticket]
        for key in ticket.reads:
            self._readers.discard(key, ticket)
        for key in ticket.writes:
            self._writers.discard(key, ticket)
        if ticket.whole:
            self._whole.discard(WHOLE_STATE, ticket)

    def _learn(self, kind: str, footprint: Footprint) -> None:
        if kind in self._kinds:
            reads, writes = self._kinds[kind]
            reads |= footprint.lost
            writes |= reads & _with_whole_state(footprint.writes)

    def _widen(self, ticket: Ticket, reads: Iterable[str], writes: Iterable[str]) -> None:
        for key in reads:
            if key not in ticket.reads:
                ticket.reads.add(key)
                self._readers.add(key, ticket)
        for key in _with_whole_state(writes):
            if key not in ticket.writes:
                ticket.writes.add(key)
                self._writers.add(key, ticket)


class _Index:
    """Key -> the tickets that name it, oldest first."""

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        self._tickets: dict[str, OrderedDict[Ticket, None]] = {}

    def add(self, key: str, ticket: Ticket) -> None:
        tickets = self._tickets.setdefault(key, OrderedDict())
        is_youngest = not tickets or next(reversed(tickets)).position < ticket.position
        tickets[ticket] = None
        if not is_youngest:
            for each in sorted(tickets, key=lambda each: each.position):
                tickets.move_to_end(each)

    def discard(self, key: str, ticket: Ticket) -> None:
        tickets = self._tickets[key]
        tickets.pop(ticket, None)
        if not tickets:
            del self._tickets[key]

    def has_older(self, key: str, ticket: Ticket) -> bool:
        tickets = self._tickets.get(key)
        return tickets is not None and next(iter(tickets)).position < ticket.position


def _interfere(first: _Needs, second: _Needs) -> bool:
    """Whether one reads what the other writes; all are (reads, writes)."""
    return not (first[0].isdisjoint(second[1]) and first[1].isdisjoint(second[0]))


def _is_older(ticket: Ticket, than: Ticket | None) -> bool:
    return than is None or ticket.position < than.position


def _held_by(ticket: Ticket) -> Iterable[str]:
    """What nobody younger may change while it runs."""
    return (*ticket.reads, WHOLE_STATE) if ticket.whole else ticket.reads


def _with_whole_state(writes: Iterable[str]) -> set[str]:
    """Whoever reads the whole state reads what anybody writes."""
    named = set(writes)
    if named:
        named.add(WHOLE_STATE)
    return named
