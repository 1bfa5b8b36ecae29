"""One execution of one plan for one task, as the process that drives it holds it in memory.

`Run` mirrors what is stored. It holds texts, not values; of a map it holds counters and the unfinished indexes, never
items or results. What comes in is in `inputs.py`, what changes because of it in `transition.py`. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import to_json

from graphflow.graph.tasks import RunStatus, Task

if TYPE_CHECKING:
    from graphflow.ids import ItemNumber, ModuleNumber, NodeNumber, RunId


class NodeStatus(StrEnum):
    """Ready, running and waiting are the active ones."""

    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"

    @property
    def is_active(self) -> bool:
        return self in ACTIVE_STATUSES


#: The busiest first: a node of several modules has the status of its busiest one.
ACTIVE_STATUSES = (NodeStatus.RUNNING, NodeStatus.READY, NodeStatus.WAITING)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a module run failed, as plain data."""

    type: str
    message: str
    #: Truncated text of the traceback; empty where there is none.
    traceback: str = ""
    retryable: bool = True

    @property
    def summary(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(slots=True)
class ModuleState:
    """One module in one visit of its node."""

    status: NodeStatus = NodeStatus.PENDING
    #: Attempts that were counted; conflicts and crashes are not.
    attempts: int = 0
    result: str | None = None
    failure: Failure | None = None
    #: When a waiting module may run again, in ms since 1970.
    retry_at: float = 0

    def clone(self) -> ModuleState:
        return ModuleState(self.status, self.attempts, self.result, self.failure, self.retry_at)


@dataclass(slots=True)
class NodeState:
    """One node of one run. `considered`, `settled` and `changed` are revisions; 0 is never."""

    status: NodeStatus = NodeStatus.PENDING
    visits: int = 0
    considered: int = 0
    settled: int = 0
    #: Revision at which the node's result last changed.
    changed: int = 0
    #: Of a map whose results others get one by one: revision at which the items of this visit were there.
    opened: int = 0
    #: How it last settled; what a cancelled visit falls back to.
    settled_as: NodeStatus = NodeStatus.PENDING
    #: Bit mask of what its last decision chose; None if it has not decided.
    chosen: int | None = None
    #: A decision asked for it while it was active: it starts once more when it has settled.
    again: bool = False
    #: Starts of its on_error node since its last success.
    handled: int = 0
    #: Its on_error node has succeeded since it failed, so that it may start again.
    reopened: bool = False
    #: A decision that named it while it was failed has been reported.
    dropped: bool = False
    failure: Failure | None = None
    #: Text of the result of the last successful visit's last module; None for a map node that is not reduced.
    result: str | None = None
    #: Deaths of the process in this visit while it was running.
    crashes: int = 0
    #: Times of the latest visit in ms since 1970.
    started: float = 0
    finished: float = 0
    modules: list[ModuleState] = field(default_factory=list)

    def clone(self) -> NodeState:
        """A copy to be changed. Field by field, in their order: a tenth of the time of copy.copy, and each fold makes some."""
        return NodeState(
            self.status,
            self.visits,
            self.considered,
            self.settled,
            self.changed,
            self.opened,
            self.settled_as,
            self.chosen,
            self.again,
            self.handled,
            self.reopened,
            self.dropped,
            self.failure,
            self.result,
            self.crashes,
            self.started,
            self.finished,
            [module.clone() for module in self.modules],
        )

    @property
    def attempts(self) -> int:
        return sum(module.attempts for module in self.modules)

    @property
    def is_closed(self) -> bool:
        """It has failed, and does not start again unless its on_error node succeeds."""
        return self.status is NodeStatus.FAILED and not self.reopened

    @property
    def busiest(self) -> NodeStatus:
        """The status of an active node: that of its busiest module."""
        present = {module.status for module in self.modules}
        return next(status for status in ACTIVE_STATUSES if status in present)


class Place(NamedTuple):
    """A module of a node's visit, or one item of a map's: what is remembered of its runs, and what it waits for, has
    this address. Another visit is another place."""

    node: NodeNumber
    visit: int
    module: ModuleNumber
    #: Index of a map's item; None for a module run.
    item: ItemNumber | None = None

    def text(self, node_name: str) -> str:
        """As stored: `NODE:VISIT:MODULE:ITEM`, with `-` for no item."""
        return f"{node_name}:{self.visit}:{self.module}:{'-' if self.item is None else self.item}"


@dataclass(frozen=True, slots=True)
class Wait:
    """A module run has ended where it waits for a signal; it starts again when the answer is there."""

    signal: str
    #: Under which the answer is remembered for it.
    field: str
    #: Revision since which it waits: who has waited longest is answered first.
    since: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message on its way into a mailbox."""

    mailbox: str
    #: As it is stored: an object with `id`, `from` and `value`.
    text: str
    #: Who sends it, and the field under which it is remembered that it has left, so that it leaves once.
    place: Place | None = None
    field: str = ""


def message_text(message_id: str, sender: str, value_text: str) -> str:
    """A message as mailboxes hold it. `message_id` tells a receiver whether it has seen the message before."""
    return f'{{"id":{to_json(message_id).decode()},"from":{to_json(sender).decode()},"value":{value_text}}}'


@dataclass(slots=True)
class MapState:
    """The visit of a map node: counters and the indexes without a record."""

    visit: int
    #: Items that are stored; all of them unless `has_more`.
    total: int
    done: int = 0
    failed: int = 0
    retried: int = 0
    unfinished: set[ItemNumber] = field(default_factory=set)
    #: Index -> deaths of the process in which the item may have been in flight.
    crashes: dict[ItemNumber, int] = field(default_factory=dict)
    #: Elements taken from the source so far, those that `where` has left out included.
    span: int = 0
    #: The source has not come to its end.
    has_more: bool = False
    #: The visit of the map whose records are the items; 0 if they are stored as items of this map.
    borrowed: int = 0
    #: Of a map whose results others get one by one: a byte for each index, 1 where there is a result.
    recorded: bytearray = field(default_factory=bytearray)

    @property
    def finished(self) -> int:
        """Items with a record."""
        return self.done + self.failed


@dataclass(frozen=True, slots=True)
class SourcePage:
    """What a map has taken from its generator at a time: the elements from `start` up to `end`, as a digest."""

    start: int
    end: int
    #: Of the texts of those that became items; see `values.texts_digest`.
    digest: str
    #: The indexes of these; None for all.
    kept: tuple[ItemNumber, ...] | None = None


@dataclass(slots=True)
class Run:
    """The mirror of a stored run. Only `apply` changes it, and the scheduler that holds the lease calls it."""

    id: RunId
    task: Task
    nodes: list[NodeState]
    status: RunStatus = RunStatus.WAITING
    #: Outcomes so far.
    revision: int = 0
    #: State key -> JSON text.
    state: dict[str, str] = field(default_factory=dict)
    #: State key -> revision of its last change, deleted keys included.
    revisions: dict[str, int] = field(default_factory=dict)
    #: Revision of the last change of the set of keys.
    keys_revision: int = 0
    maps: dict[NodeNumber, MapState] = field(default_factory=dict)
    #: Texts of the results of maps that an expression reads.
    map_results: dict[NodeNumber, str] = field(default_factory=dict)
    #: What is remembered of unfinished module runs: place -> field -> JSON text. Results of steps are entered by the
    #: scheduler when they are stored, between two commits; the rest changes as everything else does.
    steps: dict[Place, dict[str, str]] = field(default_factory=dict)
    #: Who waits for a signal.
    waits: dict[Place, Wait] = field(default_factory=dict)
    #: Signals that arrived before anybody waited for them: name -> JSON texts, the oldest first.
    signals: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: Mailbox -> texts of its messages, the oldest first. A mailbox that was used once stays.
    mailboxes: dict[str, list[str]] = field(default_factory=dict)
    #: Bit mask of the active nodes.
    active: int = 0
    #: Bit mask of the nodes that have not been considered since something that they await settled.
    fresh: int = 0
    #: Node runs so far, flow control not counted.
    iterations: int = 0
    #: Processes that drove the run and died, and how many of these deaths have been taken into account.
    deaths: int = 0
    deaths_counted: int = 0
    #: The limit that was hit, as a sentence; nothing starts any more.
    limit: str | None = None
    error: str | None = None
    held: tuple[str, ...] = ()
    #: Times in ms since 1970.
    started: float = 0
    finished: float = 0
    #: Values decoded for expressions: key -> (text, value). A memo, no state.
    plain: dict[str, tuple[str, Any]] = field(default_factory=dict)
    #: Whether conditions hold: expression text -> (texts that it read, answer). A memo, no state.
    evaluated: dict[str, tuple[tuple[str | None, ...], bool]] = field(default_factory=dict)

    def opened_map(self, index: NodeNumber, visit: int) -> MapState | None:
        """The map whose items are those of this visit of its node; None while they are not there."""
        state = self.maps.get(index)
        return state if state is not None and state.visit == visit else None
