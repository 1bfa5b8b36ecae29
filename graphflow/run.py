"""One execution of one plan for one task, as the process that drives it holds it in memory.

`Run` mirrors what is stored. It holds texts, not values; of a map it holds counters and the unfinished indexes, never
items or results. What comes in is in `inputs.py`, what changes because of it in `transition.py`. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import from_json, to_json

from graphflow.codec import register_type
from graphflow.errors import UNREADABLE
from graphflow.graph.tasks import RunStatus, Task

if TYPE_CHECKING:
    from graphflow.ids import ItemNumber, ModuleNumber, NodeNumber, RunId


@register_type(name="graphflow.NodeStatus")
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


@register_type(name="graphflow.Cause")
@dataclass(frozen=True, slots=True)
class Cause:
    """An exception behind a failure, as plain data."""

    #: What it is to the exception above it: a "member" of that group, the "cause" that was named with `raise ... from`,
    #: the "context" that was being handled. "ending": what a body raised when its time was up.
    relation: str
    type: str
    #: What it says, with its notes.
    message: str
    #: How far it is below the failure, 1 directly: it belongs to the next one before it that is less deep.
    depth: int = 1
    #: Truncated text of the traceback, without the engine's frames.
    traceback: str = ""

    @property
    def summary(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type

    @property
    def told(self) -> dict[str, Any]:
        """What handlers and programs are told of it, as JSON data."""
        return {
            "relation": self.relation,
            "type": self.type,
            "message": self.message,
            "depth": self.depth,
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a module run failed, as plain data."""

    type: str
    message: str
    #: Truncated text of the traceback; empty where there is none.
    traceback: str = ""
    retryable: bool = True
    #: The exceptions behind it, each before those behind itself.
    causes: tuple[Cause, ...] = ()

    @property
    def summary(self) -> str:
        """Type and message; of a group with its first member that is none, which says more than how many there are."""
        text = f"{self.type}: {self.message}" if self.message else self.type
        first = self._first_member
        return text if first is None else f"{text}, first {first.summary}"

    @property
    def _first_member(self) -> Cause | None:
        found: Cause | None = None
        for cause in self.causes:
            if cause.relation != "member" or cause.depth != (found.depth if found else 0) + 1:
                break
            found = cause
        return found


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


@dataclass(frozen=True, slots=True)
class GraphState:
    """How far the graph of a sub-graph is, since its node entered it the last time (rule 17)."""

    #: What it was given: a JSON object, by the keys inside.
    inputs: str
    #: When it was entered, in ms since 1970.
    entered: float
    #: Node runs in it, flow control not counted, a sub-graph in it as one.
    iterations: int = 0
    #: The limit that was hit, as a sentence; nothing of its own nodes starts any more.
    limit: str | None = None


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
    #: Inside of a sub-graph: visits before this was entered, which count no more for limits.
    earlier: int = 0
    #: Of a sub-graph that was entered.
    graph: GraphState | None = None

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
            self.earlier,
            self.graph,
        )

    @property
    def has_entered(self) -> bool:
        """Of a sub-graph: its graph is under way."""
        return self.status is NodeStatus.RUNNING and self.graph is not None

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
    #: What whoever is to answer is asked; empty if nothing is.
    question: str = ""
    #: The JSON Schema that an answer has to fit, as text; empty if any will do.
    schema: str = ""
    #: When its patience ends, in ms since 1970; 0 for never.
    deadline: float = 0
    #: Why the last answer was refused; empty if none was.
    refused: str = ""

    @property
    def beginning(self) -> str:
        """Since when it waits and until when, as it is remembered while an answer is tried: if that is refused, the
        wait goes on from there."""
        return _beginning(self.since, self.deadline)

    def going_on_from(self, beginning: str) -> Wait:
        """The same wait as one that began earlier."""
        earlier = from_json(beginning)
        deadline = float(earlier["deadline"] or self.deadline) if self.deadline else 0
        return replace(self, since=int(earlier["since"]), deadline=deadline)


def _beginning(since: int, deadline: float) -> str:
    return to_json({"since": since, "deadline": deadline}).decode()


def timeless(beginning: str) -> str:
    """The beginning of a wait whose patience begins when it is waited for again."""
    return _beginning(from_json(beginning)["since"], 0)


def beginning_field(field: str) -> str:
    """Where a wait's beginning is remembered, by the field of its answer."""
    return f"wait:{field.removeprefix('signal:')}"


def overdue_field(field: str) -> str:
    """Where it is remembered that a wait's patience has ended, by the field of its answer."""
    return f"timeout:{field.removeprefix('signal:')}"


def is_beginning_field(field: str) -> bool:
    return field.startswith("wait:")


def is_overdue_field(field: str) -> bool:
    return field.startswith("timeout:")


def answer_field(field: str) -> str:
    """The field of the answer to a wait, by another field of what is remembered of the wait."""
    return f"signal:{field.split(':', 1)[1]}"


#: How the value of a signal begins that the run has sent to itself. No registered type is called so.
_OWN = '{"$type":"graphflow.own","value":'


def own_signal_text(text: str) -> str:
    """The value of a signal marked as one that the run has sent to itself."""
    return f"{_OWN}{text}}}"


def told_apart(text: str) -> tuple[str, bool]:
    """The value of a signal, and whether the run has sent it to itself."""
    is_own = text.startswith(_OWN)
    return text[len(_OWN) : -1] if is_own else text, is_own


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


def is_from_outside(message: str) -> bool:
    """Whether no module of the run has sent the message with this text."""
    try:
        return not from_json(message)["from"]
    except UNREADABLE:
        return False


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
    """The mirror of a stored run, in the process that holds its lease.

    What is to be stored of it is changed by `apply` alone. Two things are put right besides: a module that was in flight when
    the run was loaded is ready again (`engine/admission.py`), and a step is put down here when it is stored, by a script of
    its own (`engine/steps.py`).
    """

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
    #: State keys that have an end -> when they are to be deleted, in ms since 1970.
    expiring: dict[str, float] = field(default_factory=dict)
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
    #: Node runs since something was last taken from outside; flow control is not counted (rule 9).
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
    seen: dict[str, tuple[str, Any]] = field(default_factory=dict)
    #: Whether conditions hold: expression text -> (texts that it read, answer). A memo, no state.
    evaluated: dict[str, tuple[tuple[str | None, ...], bool]] = field(default_factory=dict)

    def opened_map(self, index: NodeNumber, visit: int) -> MapState | None:
        """The map whose items are those of this visit of its node; None while they are not there."""
        state = self.maps.get(index)
        return state if state is not None and state.visit == visit else None

    def unfinished(self, index: NodeNumber) -> int:
        """Items of a map's present visit that have no record."""
        opened = self.opened_map(index, self.nodes[index].visits)
        return 0 if opened is None else len(opened.unfinished)
