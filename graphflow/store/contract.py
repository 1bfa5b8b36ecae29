"""What the engine knows of a store: the protocol that `redis_store.py` fulfils and the plain data that it returns.

A store holds runs. One process at a time drives a run, under a lease; whatever it changes goes through `commit`.
Every method raises `StoreUnreachable`, `StoreFull` or another `StoreError` where the store does not do its part, and
`CorruptState` where what it holds cannot be read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from graphflow.engine.plan import Plan
from graphflow.events import Event
from graphflow.graph.tasks import RunStatus, Task
from graphflow.ids import RunId
from graphflow.run import Failure, Run, Transition


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to drive a run, for `seconds` from the last renewal. `token` is never given out twice."""

    run_id: RunId
    token: str
    owner: str
    seconds: float


@dataclass(slots=True)
class RunHead:
    """A run at one look: for lists, and for deciding what to do with a run id. Times are ms since 1970, 0 for never."""

    id: RunId
    status: RunStatus
    task: Task
    plan_hash: str
    agent: str
    #: Where the agent is, as `package.module:name`.
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


@dataclass(frozen=True, slots=True)
class CommitReply:
    """What a commit learns besides."""

    #: Requests in the run's inbox.
    inbox: int


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


class Store(Protocol):
    """Where runs are kept."""

    @property
    def masked_url(self) -> str:
        """Where it is, as people may see it."""

    async def open(self) -> None:
        """Connect. SchemaTooNew if a newer graphflow wrote what is there."""

    async def aclose(self) -> None: ...

    async def create(self, run: Run, plan: Plan, *, agent: str, code: str) -> None:
        """Store a run that has not begun. RunExists if there is one of this id, whatever became of it."""

    async def acquire(self, run_id: RunId, seconds: float) -> Lease:
        """Take the lease of a run that nobody drives: free, expired, or its owner was a process of this host and died.

        LeaseHeld, RunNotFound.
        """

    def renewer(self) -> Renewer: ...

    async def release(self, lease: Lease) -> None:
        """Give the lease back; nothing if it is no longer ours."""

    async def load(self, run_id: RunId, plan: Plan) -> Run:
        """The run as it was last committed. RunNotFound, PlanMismatch."""

    def batch(self, plan: Plan, run_id: RunId) -> Batch: ...

    async def commit(self, lease: Lease, batch: Batch, *, expected: int, revision: int) -> CommitReply:
        """Store the batch, all or nothing, if the run is at revision `expected`; it is at `revision` afterwards.

        Lasts until it is known what became of it, or StoreUnreachable after the store's patience. LeaseLost if another
        process took the run over, StoreWentBack if the store lost what it had acknowledged, RunNotFound if the run is
        gone: after each of these the mirror is worthless.
        """

    async def head(self, run_id: RunId) -> RunHead:
        """RunNotFound."""

    async def recent(self, count: int) -> list[RunHead]:
        """The runs created last, the latest first."""

    async def items(self, run_id: RunId, node_name: str, indexes: Sequence[int]) -> list[str]:
        """Texts of a map's items, in the order of `indexes`."""

    def results(self, run_id: RunId, node_name: str) -> AsyncIterator[tuple[int, str]]:
        """(index, text) of a map's committed results, in the order of the items."""

    async def failed_items(self, run_id: RunId, node_name: str) -> list[tuple[int, Failure, int]]:
        """(index, failure, attempts) of a map's failed items, in the order of the items."""

    async def state_text(self, run_id: RunId, key: str) -> str | None:
        """One value of the run's state as JSON text."""

    async def state(self, run_id: RunId) -> dict[str, str]:
        """The run's state: key -> JSON text."""

    async def events(
        self, run_id: RunId, after: str = "0", block_ms: int | None = None
    ) -> list[tuple[str, Event]]:
        """Up to 500 (entry id, event) after entry `after`; waits up to `block_ms` (2,000 at most) if there is none."""

    async def post(self, run_id: RunId, request: str) -> bool:
        """Put a request into the run's inbox; False if the run is over. RunNotFound."""

    async def take_requests(self, lease: Lease) -> list[str]:
        """Requests not yet taken under this lease. They leave the inbox with the next commit that is sent: fold what
        they ask for before it."""
