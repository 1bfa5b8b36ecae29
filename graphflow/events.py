"""Facts about a run, in the past tense, in the order in which they were committed.

Each is stored as one entry of the run's event stream and yielded by `agent.stream`. Its `revision` is that of the
outcome that caused it, `at` its time in ms since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from graphflow.ids import ItemNumber, item_range


@dataclass(slots=True, kw_only=True)
class Event:
    """A fact. Its class name is its kind in the stream."""

    revision: int
    at: float

    @property
    def kind(self) -> str:
        return type(self).__name__


@dataclass(slots=True, kw_only=True)
class RunStarted(Event):
    pass


@dataclass(slots=True, kw_only=True)
class RunFinished(Event):
    status: str
    error: str = ""


@dataclass(slots=True, kw_only=True)
class RunSuspended(Event):
    """Everything that is active waits for a signal; nobody needs to drive the run until one comes."""

    #: Their names, separated by blanks.
    signals: str


@dataclass(slots=True, kw_only=True)
class SignalArrived(Event):
    signal: str


@dataclass(slots=True, kw_only=True)
class NodeEvent(Event):
    node: str
    visit: int


@dataclass(slots=True, kw_only=True)
class NodeStarted(NodeEvent):
    pass


@dataclass(slots=True, kw_only=True)
class NodeSucceeded(NodeEvent):
    #: Milliseconds since the visit started.
    ms: float


@dataclass(slots=True, kw_only=True)
class NodeFailed(NodeEvent):
    error: str
    attempts: int


@dataclass(slots=True, kw_only=True)
class NodeSkipped(NodeEvent):
    reason: str


@dataclass(slots=True, kw_only=True)
class NodeStopped(NodeEvent):
    """What ran or was about to run was cancelled, and its writes dropped."""

    reason: str


@dataclass(slots=True, kw_only=True)
class RetryScheduled(NodeEvent):
    module: str
    attempt: int
    error: str
    #: Seconds until the next attempt.
    delay: float


@dataclass(slots=True, kw_only=True)
class SignalAwaited(NodeEvent):
    """A module run has ended where it waits for a signal; it starts again when the signal is there."""

    signal: str
    #: Index of a map's item; empty for a module run.
    item: str = ""


@dataclass(slots=True, kw_only=True)
class SignalRefused(NodeEvent):
    """A module run has not accepted the answer that it was given: it waits again."""

    signal: str
    reason: str
    #: Index of a map's item; empty for a module run.
    item: str = ""


@dataclass(slots=True, kw_only=True)
class SignalOverdue(NodeEvent):
    """The timeout of a wait for a signal has ended: the module run starts again, and `wait_for_signal` raises."""

    signal: str
    #: Index of a map's item; empty for a module run.
    item: str = ""


@dataclass(slots=True, kw_only=True)
class DecisionFired(NodeEvent):
    #: Names of the chosen nodes, separated by blanks; END among them.
    chosen: str


@dataclass(slots=True, kw_only=True)
class DecisionDropped(NodeEvent):
    """A decision named a failed node, which only its on_error node can open again."""

    target: str


@dataclass(slots=True, kw_only=True)
class MapOpened(NodeEvent):
    #: Items; -1 if the source goes on, until SourceExhausted says how many there are.
    total: int


@dataclass(slots=True, kw_only=True)
class SourceExhausted(NodeEvent):
    """The generator from which a map has its items came to its end."""

    total: int


@dataclass(slots=True, kw_only=True)
class ItemsFinished(NodeEvent):
    """Items that succeeded, as one event per batch. `indexes` are separated by blanks, runs written as 3-17."""

    count: int
    indexes: str
    token: str = ""


@dataclass(slots=True, kw_only=True)
class ItemFailed(NodeEvent):
    index: int
    error: str
    attempts: int


@dataclass(slots=True, kw_only=True)
class KeyExpired(Event):
    """A state key that was set with `ttl` was deleted, since its time was over."""

    key: str


@dataclass(slots=True, kw_only=True)
class ProcessDied(Event):
    """The process that drove the run died without giving it back; another one goes on."""

    #: What may have been in flight, as `node` and `node[INDEXES]`, separated by blanks.
    in_flight: str


@dataclass(slots=True, kw_only=True)
class LimitReached(Event):
    error: str


@dataclass(slots=True, kw_only=True)
class GraphChanged(Event):
    """The run goes on under another graph than before."""

    #: What is different, as phrases separated by "; ".
    changes: str


@dataclass(slots=True, kw_only=True)
class EventsTrimmed(Event):
    """A gap: who reads the events was so far behind that some before the next one are no longer kept.

    It is not stored. `revision` and `at` are those of the next event; the run and its results have lost nothing.
    """


KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        RunStarted,
        RunFinished,
        RunSuspended,
        SignalArrived,
        SignalAwaited,
        SignalRefused,
        SignalOverdue,
        NodeStarted,
        NodeSucceeded,
        NodeFailed,
        NodeSkipped,
        NodeStopped,
        RetryScheduled,
        DecisionFired,
        DecisionDropped,
        MapOpened,
        SourceExhausted,
        ItemsFinished,
        ItemFailed,
        KeyExpired,
        ProcessDied,
        LimitReached,
        GraphChanged,
    )
}
_NAMES = {kind: tuple(field.name for field in fields(kind)) for kind in KINDS.values()}
_VALUES = {kind: attrgetter(*names) for kind, names in _NAMES.items()}


def event_fields(event: Event) -> dict[str, str]:
    """The event as the flat text fields of a stream entry."""
    kind = type(event)
    return {"event": kind.__name__, **dict(zip(_NAMES[kind], map(_text, _VALUES[kind](event)), strict=True))}


def event_from_fields(values: dict[str, str]) -> Event:
    """The event that `event_fields` made these of. KeyError if the kind is unknown."""
    kind = KINDS[values["event"]]
    arguments: dict[str, Any] = {}
    for field in fields(kind):
        text = values[field.name]
        arguments[field.name] = {"int": int, "float": float}.get(str(field.type), str)(text)
    return kind(**arguments)


def _text(value: object) -> str:
    return f"{value:.0f}" if type(value) is float and value > 1e9 else str(value)


def index_ranges(indexes: Iterable[int]) -> str:
    """Indexes as short text: `0-2 5` for 0, 1, 2, 5."""
    parts: list[str] = []
    ordered = sorted(indexes)
    position = 0
    while position < len(ordered):
        last = position
        while last + 1 < len(ordered) and ordered[last + 1] == ordered[last] + 1:
            last += 1
        first, final = ordered[position], ordered[last]
        parts.append(str(first) if first == final else f"{first}-{final}")
        position = last + 1
    return " ".join(parts)


def indexes_of(ranges: str) -> list[ItemNumber]:
    """The indexes that `index_ranges` wrote. ValueError."""
    found: list[ItemNumber] = []
    for part in ranges.split():
        first, _, last = part.partition("-")
        found += item_range(int(first), int(last or first) + 1)
    return found
