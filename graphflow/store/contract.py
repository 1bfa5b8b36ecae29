"""What the engine knows of a store: the protocol that `redis_store.py` fulfils and the plain data that it returns.

A store holds runs. One process at a time drives a run, under a lease; it holds a `HeldRun`, and whatever it
changes goes through its `commit`.
Every method raises `StoreUnreachable`, `StoreFull` or another `StoreError` where the store does not do its part, and
`CorruptState` where what it holds cannot be read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from graphflow.codec import register_type
from graphflow.errors import CorruptState
from graphflow.events import Event
from graphflow.graph.tasks import RunStatus, Task
from graphflow.ids import ItemNumber, NodeNumber, RunId
from graphflow.planning.plan import Plan
from graphflow.run import Failure, Place, Run, SourcePage, Wait
from graphflow.settings import KEEP_COMPLETE_SECONDS, KEEP_OTHER_SECONDS
from graphflow.transition import Transition


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to drive a run, for `seconds` from the last renewal. `token` is never given out twice."""

    run_id: RunId
    token: str
    owner: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Retention:
    """Seconds for which a run is kept after its end, by how it ended; 0 keeps it for ever."""

    complete_seconds: float = KEEP_COMPLETE_SECONDS
    other_seconds: float = KEEP_OTHER_SECONDS


DEFAULT_RETENTION = Retention()


@dataclass(slots=True)
class RunHead:
    """A run at one look: for lists, and for deciding what to do with a run id. Times are ms since 1970, 0 for never."""

    id: RunId
    status: RunStatus
    task: Task
    plan_hash: str
    agent: str
    #: Where the agent is, as `package.module:name` or `FILE:name`; see `origin.py`.
    code: str
    revision: int
    created: float
    started: float
    finished: float
    #: Who drives it, as `host:pid:start`; empty if nobody does.
    owner: str
    #: In a few words, as `3/5 nodes, 1 active`.
    progress: str
    error: str
    held: tuple[str, ...]
    #: The run that this one was forked from, and the snapshot of it if it was one.
    parent: str = ""
    snapshot: int | None = None
    #: When something of it was last stored.
    updated: float = 0.0
    #: Digests of the state that it was started with, by key (see `values.value_digest`); None if they are not known, as of
    #: forks and in lists.
    initial: dict[str, str] | None = None

    @property
    def nodes(self) -> tuple[int, int]:
        """How many nodes have settled, and how many there are; zeros before anything is known of them."""
        settled, _, count = self.progress.partition(" nodes")[0].partition("/")
        return (int(settled), int(count)) if settled.isdecimal() and count.isdecimal() else (0, 0)


@dataclass(frozen=True, slots=True)
class UnreadableHead:
    """A run that is there and whose head cannot be read."""

    id: RunId
    error: CorruptState


@register_type(name="graphflow.Snapshot")
@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run as it was when a node had succeeded or failed, kept to be forked from."""

    #: From 1, in the order in which they were taken.
    number: int
    #: What had just settled: one node, or several whose outcomes were stored together.
    nodes: tuple[str, ...]
    #: Seconds since 1970.
    time: float
    #: Outcomes of the run by then.
    revision: int


@register_type(name="graphflow.SignalWait")
@dataclass(frozen=True, slots=True)
class SignalWait:
    """What one module run, or one item of a map, waits for from outside."""

    node: str
    #: Index of the map's item; None for a module run.
    item: int | None
    signal: str
    #: What whoever is to answer is asked; empty if nothing is.
    question: str = ""
    #: The JSON Schema that an answer has to fit, as text; empty if any will do.
    schema: str = ""
    #: When its timeout ends, in seconds since 1970; None for never.
    deadline: float | None = None
    #: Why the last answer was refused; empty if none was.
    refused: str = ""

    @property
    def place(self) -> str:
        """Who waits, for people."""
        return self.node if self.item is None else f"{self.node} item {self.item}"


def signal_waits(waits: Iterable[tuple[str, int | None, Wait]]) -> list[SignalWait]:
    """Waits by (node, item), as they are looked at: who has waited longest is the first."""
    return [
        SignalWait(
            node, item, wait.signal, wait.question, wait.schema, wait.deadline / 1000 or None, wait.refused
        )
        for node, item, wait in sorted(
            waits, key=lambda each: (each[2].since, each[0], -1 if each[1] is None else each[1])
        )
    ]


@register_type(name="graphflow.MapProgress")
@dataclass(frozen=True, slots=True)
class MapProgress:
    """How far a map node is in its latest visit, at one look."""

    #: Items; None as long as it is not known how many: before the map is open, and while its source yields more.
    total: int | None = None
    done: int = 0
    failed: int = 0
    #: Failed attempts after which the item was tried again.
    retried: int = 0
    #: Items in flight when items were last stored, with those that started next.
    active: int = 0
    #: Seconds until its end if the rest goes as fast as what has ended, times without a driver included. 0 if nothing is
    #: left; None if it cannot be said, as when nobody drives the run.
    eta_seconds: float | None = None
    #: What an item takes, about; None before enough of them have ended.
    median_seconds: float | None = None
    #: (index, seconds) of the slowest items that took over five times the median, the slowest first.
    stragglers: tuple[tuple[int, float], ...] = ()

    @property
    def fraction(self) -> float | None:
        """From 0 to 1, how many of the items have ended; None as long as the total is not known."""
        if self.total is None:
            return None
        return (self.done + self.failed) / self.total if self.total else 1.0


@dataclass(frozen=True, slots=True)
class MapLook:
    """Which visit a map node is in, at one look, and of which one its records are."""

    #: The node's latest visit; 0 before the first.
    visit: int
    is_active: bool
    run_is_over: bool
    #: The visit that the records are of; 0 if there are none.
    recorded: int
    #: Their last index plus one.
    span: int

    def has_ended(self, visit: int) -> bool:
        """Whether this visit, which may not have begun, gets no more results."""
        return self.run_is_over or self.visit > visit or (self.visit == visit and not self.is_active)


@dataclass(slots=True)
class MapRecords:
    """The records of one visit of a map, by index, as they are stored."""

    items: dict[str, str]
    results: dict[str, str]
    failures: dict[str, str]
    #: What a generator has yielded, a text for each page by the number of its first element.
    pages: dict[str, str]


@dataclass(slots=True)
class RunContent:
    """All that is stored of a run; `records` by the number of the map node."""

    run: Run
    records: dict[NodeNumber, MapRecords] = field(default_factory=dict)
    #: The run that it was read from, and the snapshot of it if it was one.
    parent: str = ""
    snapshot: int | None = None


@dataclass(frozen=True, slots=True)
class CommitReply:
    """What a commit learns besides."""

    #: Requests in the run's inbox.
    inbox: int
    #: The store has no memory left for anything new.
    is_full: bool = False


class Batch(Protocol):
    """Writes gathered for one commit."""

    @property
    def size(self) -> int:
        """Characters in its values, about."""

    @property
    def operations(self) -> int:
        """Fields, records and events that it writes, about."""

    @property
    def is_empty(self) -> bool: ...

    def add(self, run: Run, transition: Transition) -> None:
        """Take over a transition *before* it is applied to `run`: only what differs from `run` is written."""


class Renewer(Protocol):
    """Renews leases from a thread, on a connection of its own."""

    def renew(self, lease: Lease) -> int | None:
        """The number of requests in the run's inbox; None if the lease is no longer ours."""

    def close(self) -> None: ...


class HeldRun(Protocol):
    """A run whose lease this process holds: what only its driver may do. LeaseLost when that is another's by now."""

    @property
    def lease(self) -> Lease: ...

    async def load(self, plan: Plan) -> Run:
        """The run as it was last committed. PlanMismatch."""

    def batch(self, plan: Plan) -> Batch: ...

    async def commit(self, batch: Batch, *, expected: int, revision: int) -> CommitReply:
        """Store the batch, all or nothing, if the run is at revision `expected`; it is at `revision` afterwards.

        Lasts until it is known what became of it, or StoreUnreachable after the store's patience. LeaseLost if another
        process took the run over, StoreWentBack if the store lost what it had acknowledged, RunNotFound if the run is
        gone: after each of these the run in memory is worthless.
        """

    async def step(self, node_name: str, place: Place, field: str, text: str) -> str:
        """Remember what a step came to, unless this field is remembered already; what is remembered. LeaseLost."""

    async def take_requests(self) -> list[str]:
        """Requests not yet taken under this lease. They leave the inbox with the next commit that is sent: fold what
        they ask for before it."""

    async def replan(self, plan: Plan) -> None:
        """Make `plan` the graph of the run, whose nodes keep what they came to by their names. Before anything is taken
        or committed under the lease. PlanMismatch with its obstacles where that cannot be."""

    async def release(self) -> None:
        """Give the lease back; nothing if it is no longer ours."""


class Store(Protocol):
    """Where runs are kept. All but taking one to drive it is looking, or housekeeping."""

    @property
    def masked_url(self) -> str:
        """Where it is, as people may see it."""

    async def open(self) -> None:
        """Connect. SchemaTooNew if a newer graphflow wrote what is there."""

    async def aclose(self) -> None: ...

    async def create(
        self,
        run: Run,
        plan: Plan,
        *,
        agent: str,
        code: str,
        kept: Retention = DEFAULT_RETENTION,
        content: RunContent | None = None,
    ) -> None:
        """Store a run that has not begun, which may begin with the `content` of another. RunExists if there is one of
        this id, whatever became of it."""

    async def acquire(self, run_id: RunId, seconds: float) -> HeldRun:
        """Take the lease of a run that nobody drives: free, expired, or its owner was a process of this host and died.

        LeaseHeld, RunNotFound; RunOver if there is nothing to drive any more.
        """

    def renewer(self) -> Renewer: ...

    async def load(self, run_id: RunId, plan: Plan) -> Run:
        """The run as it was last committed, to be looked at. RunNotFound, PlanMismatch."""

    async def expire(self, run_id: RunId, plan: Plan) -> None:
        """Give every key of a run that is over the time of its end, as its retention says."""

    async def delete(self, run_id: RunId) -> None:
        """Remove every key of a run. LeaseHeld if a process drives it, RunNotFound."""

    async def quarantine(self, run_id: RunId, error: CorruptState) -> None:
        """Keep a run that cannot be read from being found again by who looks for runs to go on with."""

    async def snapshots(self, run_id: RunId) -> list[Snapshot]:
        """Those that are kept, the first one first. RunNotFound."""

    async def content(self, run_id: RunId, plan: Plan, at: int | None = None) -> RunContent:
        """A run that nobody drives, or a snapshot of any run. RunNotFound, PlanMismatch, SnapshotNotFound."""

    async def head(self, run_id: RunId) -> RunHead:
        """RunNotFound."""

    async def graph(self, run_id: RunId) -> dict[str, dict[str, Any]]:
        """The nodes of the graph that the run goes by, as plain data by name (see `planning/describe.py`)."""

    async def plan(self, run_id: RunId) -> Plan:
        """The same as a plan by which the run can be looked at and ended, but not driven (see `planning/stored_plan.py`)."""

    async def open_runs(self) -> list[RunId]:
        """The runs that are not over, the oldest first; some may be over or gone."""

    def heads(self, since: float = 0.0) -> AsyncGenerator[RunHead | UnreadableHead, None]:
        """Every run, the one created last first, as many as were created at `since` (ms since 1970) or later. One that
        cannot be read stands in its place."""

    async def recent(self, count: int) -> list[RunHead]:
        """The runs created last, the latest first. CorruptState if one of them cannot be read."""

    async def items(
        self, run_id: RunId, node_name: str, indexes: Sequence[ItemNumber], lender: str | None = None
    ) -> list[str]:
        """Texts of a map's items, in the order of `indexes`; they are the results of the map `lender`, if there is one."""

    def result_pages(
        self, run_id: RunId, node_name: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[list[tuple[ItemNumber, str]]]:
        """(index, text) of a map's committed results, in the order of the items, as many at a time as one reply holds."""

    async def source_pages(self, run_id: RunId, node_name: str) -> list[SourcePage]:
        """What a map has taken from its generator, in its order; none of what earlier versions took."""

    async def failed_items(self, run_id: RunId, node_name: str) -> list[tuple[ItemNumber, Failure, int]]:
        """(index, failure, attempts) of a map's failed items, in the order of the items."""

    async def map_progress(self, run_id: RunId) -> dict[str, MapProgress]:
        """How far each map node is, by name, in the order of the graph. RunNotFound."""

    async def look_at_map(self, run_id: RunId, node_name: str) -> MapLook:
        """RunNotFound."""

    async def visit_results(
        self, run_id: RunId, node_name: str, visit: int, indexes: Sequence[ItemNumber]
    ) -> list[str | None] | None:
        """Texts of the results that one visit of a map has, in the order of `indexes`, None where there is none; None
        for all if the records of a later visit have taken their place."""

    async def state(self, run_id: RunId) -> dict[str, str]:
        """The run's state: key -> JSON text."""

    async def events(
        self, run_id: RunId, after: str = "0", block_ms: int | None = None
    ) -> list[tuple[str, Event]]:
        """Up to 500 (entry id, event) after entry `after`; waits up to `block_ms` (2,000 at most) if there is none.

        EventsTrimmed before the others if some may be missing in between: no more than about the last 100,000 are kept.
        """

    async def post(self, run_id: RunId, request: str) -> bool:
        """Put a request into the run's inbox; False if the run is over. RunNotFound."""

    async def wait_for_memory(self, run_id: RunId) -> None:
        """Until the store takes what is new again; StoreFull after its patience."""

    async def waits(self, run_id: RunId, signal: str | None = None) -> list[SignalWait]:
        """What the run waits for from outside, or who waits for this signal; who has waited longest is the first. Nothing
        of a run that is not there."""

    async def waiting_requests(self, run_id: RunId) -> int:
        """How many requests of a run have not been answered yet."""
