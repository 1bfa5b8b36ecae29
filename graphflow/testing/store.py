"""A store in memory: runs with real transitions, in plain objects that a test can look into.

It keeps what `store/contract.py` promises, but for snapshots and other graphs for a run. A store is shared by all agents,
event loops and threads that use it, and gone with the process.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any

from graphflow import clock
from graphflow.errors import (
    CorruptState,
    LeaseHeld,
    LeaseLost,
    PlanMismatch,
    RunExists,
    RunNotFound,
    RunOver,
    SnapshotNotFound,
    StoreError,
    StoreWentBack,
)
from graphflow.events import Event, ItemsFinished
from graphflow.failpoints import failpoint
from graphflow.ids import ItemNumber, NodeNumber, RunId, item_number
from graphflow.planning.describe import is_map
from graphflow.planning.differences import described_nodes
from graphflow.planning.plan import Plan
from graphflow.rules.advance import apply
from graphflow.run import Failure, Place, Run, SourcePage
from graphflow.store.cache import RedisCache
from graphflow.store.contract import (
    DEFAULT_RETENTION,
    Batch,
    CommitReply,
    Lease,
    MapLook,
    MapProgress,
    MapRecords,
    Retention,
    RunContent,
    RunHead,
    SignalWait,
    Snapshot,
    UnreadableHead,
    signal_waits,
)
from graphflow.testing.crashes import deaths
from graphflow.transition import MapChange, Transition
from graphflow.values import value_digest


@dataclass(slots=True)
class Records:
    """What is stored of one visit of a map, by the indexes of its items."""

    items: dict[ItemNumber, str] = field(default_factory=dict)
    results: dict[ItemNumber, str] = field(default_factory=dict)
    failures: dict[ItemNumber, tuple[Failure, int]] = field(default_factory=dict)
    pages: list[SourcePage] = field(default_factory=list)


@dataclass(slots=True)
class StoredRun:
    """A run as it was last committed."""

    run: Run
    plan: Plan
    head: RunHead
    records: dict[NodeNumber, Records] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    inbox: list[str] = field(default_factory=list)
    lease: Lease | None = None
    #: When the lease ends, by the monotonic clock, and how often this process had died when it was taken.
    lease_ends: float = 0.0
    life: int = 0
    leases: int = 0

    @property
    def is_held(self) -> bool:
        return self.lease is not None and self.life == deaths() and clock.monotonic() < self.lease_ends


@dataclass(slots=True)
class MemoryBatch:
    """Transitions for one commit."""

    transitions: list[Transition] = field(default_factory=list)
    size: int = 0
    operations: int = 0
    #: A revision that moves without further change is stored, too.
    moves: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.moves or self.operations)

    def add(self, run: Run, transition: Transition) -> None:
        self.transitions.append(transition)
        self.moves = self.moves or transition.revision != run.revision
        changes = transition.maps.values()
        texts = [
            text for change in changes for _, text in (*(change.opened or ()), *change.added, *change.done)
        ]
        self.size += sum(map(len, texts)) + sum(len(text or "") for text in transition.state.values())
        self.operations += len(texts) + sum(len(change.failed) for change in changes) + len(changes)
        fields: tuple[Sized, ...] = (transition.nodes, transition.state, transition.steps, transition.waits)
        fields += (
            transition.signals,
            transition.sent,
            transition.taken,
            transition.events,
            transition.expiring,
        )
        self.operations += sum(map(len, fields))
        self.operations += any((transition.status, transition.limit, transition.deaths_counted))


class MemoryHeldRun:
    """A run under its lease: all that only who drives it may do."""

    def __init__(self, stored: StoredRun, lease: Lease) -> None:
        self.lease = lease
        self._stored = stored
        #: Requests taken from the inbox that leave it with the next commit.
        self._taken = 0

    async def load(self, plan: Plan) -> Run:
        return loaded(self._stored, plan)

    def batch(self, plan: Plan) -> MemoryBatch:
        return MemoryBatch()

    async def commit(self, batch: Batch, *, expected: int, revision: int) -> CommitReply:
        assert isinstance(batch, MemoryBatch)
        stored = self._stored
        failpoint("commit.before_send")
        self._check_held()
        if stored.run.revision != expected:
            raise StoreWentBack(stored.run.id, expected, stored.run.revision)
        for transition in batch.transitions:
            _store(stored, transition, self.lease.token)
        stored.run.revision = revision
        stored.head.updated = clock.now()
        del stored.inbox[: self._taken]
        self._taken = 0
        if stored.run.status.is_final:
            stored.lease = None
            stored.inbox.clear()
        # Everybody else has a turn before the reply is there.
        await asyncio.sleep(0)
        failpoint("commit.after_reply")
        if stored.run.status.is_final:
            failpoint("run.ended")
        return CommitReply(len(stored.inbox))

    async def step(self, node_name: str, place: Place, field: str, text: str) -> str:
        failpoint("step.before_send")
        self._check_held()
        return self._stored.run.steps.setdefault(place, {}).setdefault(field, text)

    async def take_requests(self) -> list[str]:
        self._check_held()
        requests = self._stored.inbox[self._taken :]
        self._taken += len(requests)
        return requests

    async def replan(self, plan: Plan) -> None:
        raise StoreError(
            "a MemoryStore keeps a run with the graph that it began with; test a changed graph on an embedded server"
        )

    async def release(self) -> None:
        failpoint("lease.release")
        if self._is_held:
            self._stored.lease = None

    @property
    def _is_held(self) -> bool:
        return self._stored.lease is not None and self._stored.lease.token == self.lease.token

    def _check_held(self) -> None:
        if not self._is_held:
            raise LeaseLost(self.lease.run_id)


class MemoryStore:
    """Runs in memory; see `contract.Store`. `runs` holds them by their ids, as they are stored."""

    masked_url = "memory"

    def __init__(self) -> None:
        self.runs: dict[RunId, StoredRun] = {}

    async def open(self) -> None:
        """There is nothing to connect to."""

    async def aclose(self) -> None:
        """What is stored stays."""

    # Creating and taking runs

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
        if run.id in self.runs:
            raise RunExists(run.id)
        content = content or RunContent(run)
        head = RunHead(
            run.id, run.status, run.task, plan.hash, agent, code, 0, clock.now(), 0, 0, "", "", "", ()
        )
        head.updated = head.created
        head.parent, head.snapshot = content.parent, content.snapshot
        if not content.parent:
            head.initial = {key: value_digest(text) for key, text in content.run.state.items()}
        records = {index: _from_content(each) for index, each in content.records.items()}
        self.runs[run.id] = StoredRun(copy.deepcopy(content.run), plan, head, records)
        failpoint("create.after_reply")

    async def acquire(self, run_id: RunId, seconds: float) -> MemoryHeldRun:
        failpoint("lease.acquire")
        stored = self._stored(run_id)
        if stored.run.status.is_final:
            raise RunOver(run_id)
        if stored.is_held:
            raise LeaseHeld(run_id, _owner(stored), stored.lease_ends - clock.monotonic())
        if stored.lease is not None:
            failpoint("lease.takeover")
            stored.run.deaths += 1
        stored.leases += 1
        stored.life, stored.lease_ends = deaths(), clock.monotonic() + seconds
        stored.lease = lease = Lease(run_id, f"{run_id}-{stored.leases}", _owner(stored), seconds)
        failpoint("lease.acquired")
        return MemoryHeldRun(stored, lease)

    def renewer(self) -> MemoryRenewer:
        return MemoryRenewer(self)

    # Keeping and removing runs

    async def expire(self, run_id: RunId, plan: Plan) -> None:
        failpoint("expire.before")

    async def delete(self, run_id: RunId) -> None:
        stored = self._stored(run_id)
        if stored.is_held:
            raise LeaseHeld(run_id, _owner(stored), stored.lease_ends - clock.monotonic())
        del self.runs[run_id]

    async def quarantine(self, run_id: RunId, error: CorruptState) -> None:
        """What is in memory can be read."""

    # Looking at runs

    async def load(self, run_id: RunId, plan: Plan) -> Run:
        return loaded(self._stored(run_id), plan)

    async def plan(self, run_id: RunId) -> Plan:
        return self._stored(run_id).plan

    async def snapshots(self, run_id: RunId) -> list[Snapshot]:
        self._stored(run_id)
        return []

    async def content(self, run_id: RunId, plan: Plan, at: int | None = None) -> RunContent:
        if at is not None:
            raise SnapshotNotFound(run_id, at, [])
        stored = self._stored(run_id)
        records = {index: _to_content(self._with_items(stored, index)) for index in stored.records}
        return RunContent(loaded(stored, plan), records, run_id)

    async def head(self, run_id: RunId) -> RunHead:
        stored = self._stored(run_id)
        run = stored.run
        settled = sum(not state.status.is_active and state.visits > 0 for state in run.nodes)
        return replace(
            stored.head,
            status=run.status,
            revision=run.revision,
            started=run.started,
            finished=run.finished,
            owner="" if stored.lease is None else stored.lease.owner,
            progress=f"{settled}/{len(run.nodes)} nodes, {run.active.bit_count()} active",
            error=run.error or "",
            held=run.held,
        )

    async def graph(self, run_id: RunId) -> dict[str, dict[str, Any]]:
        return described_nodes(self._stored(run_id).plan.json)

    async def open_runs(self) -> list[RunId]:
        return [run_id for run_id, stored in self.runs.items() if not stored.run.status.is_final]

    async def heads(self, since: float = 0.0) -> AsyncGenerator[RunHead | UnreadableHead, None]:
        for run_id in [*reversed(self.runs)]:
            head = await self.head(run_id)
            if head.created >= since:
                yield head

    async def recent(self, count: int) -> list[RunHead]:
        return [await self.head(run_id) for run_id in [*reversed(self.runs)][:count]]

    async def items(
        self, run_id: RunId, node_name: str, indexes: Sequence[ItemNumber], lender: str | None = None
    ) -> list[str]:
        stored = self._stored(run_id)
        if lender is not None:
            results = stored.records[stored.plan.by_name[lender]].results
            return [results[index] for index in indexes]
        items = stored.records[stored.plan.by_name[node_name]].items
        return [items[index] for index in indexes]

    async def result_pages(
        self, run_id: RunId, node_name: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[list[tuple[ItemNumber, str]]]:
        results = self._records(run_id, node_name).results
        page = [(index, results[index]) for index in sorted(results) if start <= index]
        yield [record for record in page if stop is None or record[0] < stop]

    async def source_pages(self, run_id: RunId, node_name: str) -> list[SourcePage]:
        return list(self._records(run_id, node_name).pages)

    async def failed_items(self, run_id: RunId, node_name: str) -> list[tuple[ItemNumber, Failure, int]]:
        failures = self._records(run_id, node_name).failures
        return [(index, *failures[index]) for index in sorted(failures)]

    async def map_progress(self, run_id: RunId) -> dict[str, MapProgress]:
        stored = self._stored(run_id)
        progress = {}
        for name, node in (await self.graph(run_id)).items():
            if not is_map(node):
                continue
            state = stored.run.maps.get(stored.plan.by_name[name])
            progress[name] = MapProgress()
            if state is not None:
                total = None if state.has_more else state.total
                progress[name] = MapProgress(total, state.done, state.failed, state.retried)
        return progress

    async def look_at_map(self, run_id: RunId, node_name: str) -> MapLook:
        run = self._stored(run_id).run
        index = self._stored(run_id).plan.by_name[node_name]
        node, state = run.nodes[index], run.maps.get(index)
        recorded, span = (0, 0) if state is None else (state.visit, state.span)
        return MapLook(node.visits, node.status.is_active, run.status.is_final, recorded, span)

    async def visit_results(
        self, run_id: RunId, node_name: str, visit: int, indexes: Sequence[ItemNumber]
    ) -> list[str | None] | None:
        if (await self.look_at_map(run_id, node_name)).recorded != visit:
            return None
        results = self._records(run_id, node_name).results
        return [results.get(index) for index in indexes]

    async def state_text(self, run_id: RunId, key: str) -> str | None:
        return self._stored(run_id).run.state.get(key)

    async def state(self, run_id: RunId) -> dict[str, str]:
        stored = self.runs.get(run_id)
        return {} if stored is None else dict(stored.run.state)

    async def events(
        self, run_id: RunId, after: str = "0", block_ms: int | None = None
    ) -> list[tuple[str, Event]]:
        stored = self._stored(run_id)
        if len(stored.events) <= int(after) and block_ms:
            await asyncio.sleep(block_ms / 1000)
        fresh = stored.events[int(after) : int(after) + 500]
        return [(str(number), event) for number, event in enumerate(fresh, int(after) + 1)]

    async def post(self, run_id: RunId, request: str) -> bool:
        stored = self._stored(run_id)
        if stored.run.status.is_final:
            return False
        stored.inbox.append(request)
        return True

    async def waits(self, run_id: RunId, signal: str | None = None) -> list[SignalWait]:
        stored = self.runs.get(run_id)
        if stored is None:
            return []
        names = [node.name for node in stored.plan.nodes]
        return signal_waits(
            (names[place.node], place.item, wait)
            for place, wait in stored.run.waits.items()
            if signal in (None, wait.signal)
        )

    async def waiting_requests(self, run_id: RunId) -> int:
        stored = self.runs.get(run_id)
        return 0 if stored is None else len(stored.inbox)

    async def wait_for_memory(self, run_id: RunId) -> None:
        """There is always room."""

    def _stored(self, run_id: RunId) -> StoredRun:
        if run_id not in self.runs:
            raise RunNotFound(run_id, self.masked_url)
        return self.runs[run_id]

    def _records(self, run_id: RunId, node_name: str) -> Records:
        stored = self._stored(run_id)
        return stored.records.get(stored.plan.by_name[node_name], Records())

    @staticmethod
    def _with_items(stored: StoredRun, index: NodeNumber) -> Records:
        """The records, with the results of the map that they are borrowed from as items."""
        records, source = stored.records[index], stored.plan.nodes[index].map
        if not stored.run.maps[index].borrowed or source is None or source.source_node is None:
            return records
        return replace(records, items=dict(stored.records[source.source_node].results))


@dataclass(frozen=True, slots=True)
class MemoryRenewer:
    """Renews leases in a store in memory."""

    store: MemoryStore

    def renew(self, lease: Lease) -> int | None:
        failpoint("lease.renew")
        stored = self.store.runs.get(lease.run_id)
        if stored is None or stored.lease is None or stored.lease.token != lease.token:
            return None
        stored.lease_ends = clock.monotonic() + lease.seconds
        return len(stored.inbox)

    def close(self) -> None:
        """There is nothing to close."""


class MemoryCache(RedisCache):
    """What `Agent(cache=...)` takes, for a store in memory; `memory` is that store, a new one unless it is given."""

    def __init__(self, memory: MemoryStore | None = None) -> None:
        super().__init__("memory://graphflow.testing", on_risk="ignore")
        self.memory = MemoryStore() if memory is None else memory

    def __repr__(self) -> str:
        return f"MemoryCache({len(self.memory.runs)} runs)"

    def store(self) -> MemoryStore:  # type: ignore[override]
        return self.memory


def loaded(stored: StoredRun, plan: Plan) -> Run:
    """A copy of the run for whoever is going to drive it. PlanMismatch."""
    run = stored.run
    if stored.plan.hash != plan.hash:
        raise PlanMismatch(run.id, stored.plan.hash, plan.hash)
    nodes = [node.clone() for node in run.nodes]
    memos: dict[int, Any] = {id(run.nodes): nodes, id(run.task): run.task.model_copy(deep=True)}
    found = copy.deepcopy(run, memos)
    found.seen, found.evaluated = {}, {}
    return found


def _store(stored: StoredRun, transition: Transition, token: str) -> None:
    for index, change in transition.maps.items():
        _record(stored, index, change)
    for event in transition.events:
        if isinstance(event, ItemsFinished):
            event.token = token
    stored.events += transition.events
    apply(stored.run, transition, stored.plan)
    for index, node in transition.nodes.items():
        stored.run.nodes[index] = node.clone()


def _record(stored: StoredRun, index: NodeNumber, change: MapChange) -> None:
    if change.opened is not None:
        stored.records[index] = Records()
    records, state = stored.records[index], stored.run.maps.get(index)
    is_lent = change.borrowed or (change.opened is None and state is not None and state.borrowed)
    if not is_lent:
        records.items.update(change.opened or ())
        records.items.update(change.added)
    records.pages += [change.page] if change.page is not None else []
    records.results.update(change.done)
    records.failures.update({item: (failure, attempts) for item, failure, attempts in change.failed})


def _owner(stored: StoredRun) -> str:
    return f"process {stored.life + 1} of this test"


def _to_content(records: Records) -> MapRecords:
    from graphflow.store.fields import failure_text, page_text

    failures = {str(item): failure_text(*failure) for item, failure in records.failures.items()}
    pages = {str(page.start): page_text(page) for page in records.pages}
    return MapRecords(_texts(records.items), _texts(records.results), failures, pages)


def _from_content(content: MapRecords) -> Records:
    from graphflow.store.fields import item_failure_from_text
    from graphflow.store.records import pages_from

    failures = {item_number(item): item_failure_from_text(text) for item, text in content.failures.items()}
    return Records(_indexes(content.items), _indexes(content.results), failures, pages_from(content.pages))


def _texts(records: dict[ItemNumber, str]) -> dict[str, str]:
    return {str(index): text for index, text in records.items()}


def _indexes(records: dict[str, str]) -> dict[ItemNumber, str]:
    return {item_number(index): text for index, text in records.items()}
