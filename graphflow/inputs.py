"""What comes into a run: an outcome of a module or of items, a timer, a request. `advance` makes a transition of it.

Started and RetryDue change no result and so have no revision of their own; the others do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphflow.graph.tasks import RunStatus
from graphflow.ids import ItemNumber, ModuleNumber, NodeNumber
from graphflow.run import Failure, Message, Place


@dataclass(frozen=True, slots=True)
class Begin:
    """The run starts."""


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt was admitted to a slot."""

    node: NodeNumber
    module: ModuleNumber


@dataclass(frozen=True, slots=True)
class RetryDue:
    """A waiting module's back-off is over."""

    node: NodeNumber
    module: ModuleNumber


@dataclass(frozen=True, slots=True)
class Entered:
    """A sub-graph that was ready has entered its graph, as a run begins."""

    node: NodeNumber


@dataclass(frozen=True, slots=True)
class GraphStopped:
    """The graph of a sub-graph cannot go on: its deadline has come, or all that is left waits in vain."""

    node: NodeNumber
    visit: int
    #: The attempts of the sub-graph before the one that is meant.
    attempts: int
    reason: str


@dataclass(slots=True)
class Outcome:
    """What a module run came to: a result or a failure, with its writes."""

    node: NodeNumber
    module: ModuleNumber
    visit: int
    result: str | None = None
    failure: Failure | None = None
    #: Names that the module decided for; None falls through. Only of a module that may decide.
    decision: tuple[str, ...] | None = None
    #: State key -> text, or None to delete; operations on values are resolved already.
    writes: dict[str, str | None] = field(default_factory=dict)
    #: Of keys in `writes`: seconds from now to the key's end, None to leave the end that it has. A key that is not here is
    #: kept for good.
    ttls: dict[str, float | None] = field(default_factory=dict)
    sent: Sequence[Message] = ()
    #: (mailbox, text) of the messages that it has taken.
    taken: Sequence[tuple[str, str]] = ()


@dataclass(slots=True)
class ItemsStored:
    """A map node's source was read, or a page of it: these are its items, as (index, text)."""

    node: NodeNumber
    visit: int
    items: list[tuple[ItemNumber, str]]
    failure: Failure | None = None
    #: Elements taken from the source before this page, and with it (0: as far as the items go).
    start: int = 0
    span: int = 0
    has_more: bool = False
    #: Of what a generator has yielded, by which it is known again; see `SourcePage`.
    digest: str = ""
    #: As in `MapState`.
    borrowed: int = 0
    #: The items are the results that another map has so far and is going to have.
    follows: bool = False
    #: As in `ItemOutcomes`, with a last page after the last item.
    results: str | None = None
    reduce_failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the items of a map go, for people: nothing is decided by it."""

    #: Items in flight, with those that take the slots which are free at this moment.
    active: int = 0
    median_seconds: float | None = None
    #: (index, seconds) of items that took far longer than the others, the slowest first.
    stragglers: Sequence[tuple[ItemNumber, float]] = ()


@dataclass(slots=True)
class ItemOutcomes:
    """Items of a map that are finished, in one batch."""

    node: NodeNumber
    visit: int
    done: list[tuple[ItemNumber, str]] = field(default_factory=list)
    #: (index, failure, attempts)
    failed: list[tuple[ItemNumber, Failure, int]] = field(default_factory=list)
    retried: int = 0
    #: As in `Outcome`.
    writes: dict[str, str | None] = field(default_factory=dict)
    ttls: dict[str, float | None] = field(default_factory=dict)
    sent: Sequence[Message] = ()
    taken: Sequence[tuple[str, str]] = ()
    #: The whole result as JSON text, handed in with the last item if an expression reads it or it was reduced.
    results: str | None = None
    #: Why the results cannot be reduced.
    reduce_failure: Failure | None = None
    pace: Pace | None = None


@dataclass(slots=True)
class StateSet:
    """State set outside a module run's transaction (`immediate=True`)."""

    #: As in `Outcome`.
    writes: dict[str, str | None]
    ttls: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeyDue:
    """The end of a state key has come."""

    key: str
    #: Which end, in ms since 1970: the key may have another one by now.
    end: float


@dataclass(slots=True)
class MessagesSent:
    """Messages from outside, or of a module run that is going to wait for an answer."""

    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class SignalAwaited:
    """A module run has come to where it waits for a signal, and has ended there; or it has refused the answer."""

    place: Place
    signal: str
    field: str
    #: As in `Wait`.
    question: str = ""
    schema: str = ""
    #: Seconds from the first wait to the end of its patience.
    timeout: float | None = None
    #: Why the answer that it was given is dropped; None if there was none.
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class SignalOverdue:
    """The patience of a wait has ended."""

    place: Place
    field: str


@dataclass(frozen=True, slots=True)
class SignalArrived:
    """Somebody outside has sent a signal."""

    signal: str
    #: Its value as JSON text.
    text: str
    #: A module of the run has sent it.
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class Crashed:
    """The process that drove the run died: what it had in flight is counted."""


@dataclass(frozen=True, slots=True)
class GraphChanged:
    """The run goes on under another graph than before; `changes` says in phrases what is different."""

    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """The run is to end now: cancelled by somebody, or past its deadline."""

    status: RunStatus
    reason: str


Input = (
    Begin
    | Started
    | RetryDue
    | Entered
    | GraphStopped
    | Outcome
    | ItemsStored
    | ItemOutcomes
    | StateSet
    | KeyDue
    | MessagesSent
    | SignalAwaited
    | SignalArrived
    | SignalOverdue
    | Crashed
    | GraphChanged
    | Stop
)
