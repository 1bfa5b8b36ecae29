"""Runs in Redis: the store that the engine drives, the CLI looks into, and every process shares.

Writes go through one script each and carry an operation id, so a lost reply is answered by asking again: until the
store's patience ends, a call lasts as long as Redis does not answer or takes no writes. Keys are in `keys.py`, the form
of what is stored in `fields.py` and `writes.py`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphflow.clock import now
from graphflow.engine.plan import Plan, bits, borrowed_from
from graphflow.errors import (
    CorruptState,
    LeaseHeld,
    LeaseLost,
    RunExists,
    RunNotFound,
    RunOver,
    SchemaTooNew,
    StoreWentBack,
)
from graphflow.events import Event
from graphflow.failpoints import failpoint
from graphflow.ids import RunId
from graphflow.run import Failure, NodeStatus, Place, Run
from graphflow.settings import OnRisk
from graphflow.store.address import Address
from graphflow.store.checks import check_server
from graphflow.store.contract import (
    DEFAULT_RETENTION,
    Batch,
    CommitReply,
    Lease,
    MapLook,
    MapProgress,
    Retention,
    RunContent,
    RunHead,
    Snapshot,
)
from graphflow.store.copies import creation, read_content, read_stored
from graphflow.store.embedded import EmbeddedServer
from graphflow.store.errands import load_errands
from graphflow.store.event_log import read_events
from graphflow.store.fields import Changes, time_text
from graphflow.store.keys import RunKeys, StoreKeys
from graphflow.store.loading import head_from, marked, run_from
from graphflow.store.owner import current_owner, is_gone
from graphflow.store.patient_client import PatientClient
from graphflow.store.progress import look_at_map, read_progress
from graphflow.store.records import (
    read_failures,
    read_items,
    read_result_pages,
    read_unfinished,
    read_visit_results,
)
from graphflow.store.renewer import RedisRenewer
from graphflow.store.replan import StoredGraph, graph_from, replan_writes
from graphflow.store.retention import delete_run, expire_keys, keys_but_hash, quarantine, retention_fields
from graphflow.store.scripts import Argument
from graphflow.store.snapshots import KeptSnapshots, kept_snapshots, read_snapshots
from graphflow.store.upkeep import GRACE_SECONDS, Upkeep
from graphflow.store.writes import Tally, WriteBatch, WriteList

#: The layout that this file reads and writes.
SCHEMA = 1
#: Entries that an event stream is cut to, about.
EVENTS_KEPT = 100_000
#: Seconds for which a call goes on asking a store that does not answer or takes no writes.
PATIENCE_SECONDS = 30.0
#: Runs read at a time.
PAGE = 500
#: Milliseconds that one read waits for new events at most.
MAX_BLOCK_MS = 2_000


@dataclass(slots=True)
class _Drive:
    """What this process knows of a run whose lease it holds."""

    token: str
    #: Operation id of the last commit.
    op: str
    #: There were outcomes when the lease was taken.
    has_begun: bool
    commits: int = 0
    #: Requests taken from the inbox that still stand there.
    taken: int = 0
    tally: Tally = field(default_factory=Tally)
    snapshots: KeptSnapshots = field(default_factory=KeptSnapshots)
    #: Held by what moves the head of the inbox, or counts on its place.
    inbox_lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RedisStore:
    """See `contract.Store`. Belongs to the event loop that opened it."""

    def __init__(
        self,
        address: Address,
        *,
        prefix: str = "gf",
        patience_seconds: float = PATIENCE_SECONDS,
        on_risk: OnRisk = "ignore",
        server: EmbeddedServer | None = None,
    ) -> None:
        """`server` is joined when the store opens and not left when it closes: its owner does that."""
        self.masked_url = address.masked
        self._address = address
        self._on_risk = on_risk
        self._server = server
        self._keys = StoreKeys(prefix)
        self._redis = PatientClient(address, patience_seconds)
        self._drives: dict[RunId, _Drive] = {}

    # Opening and closing

    async def open(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.start)
        await self._redis.open()
        try:
            await self._check_schema()
            await check_server(self._redis, self._address, self._on_risk)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        self._drives.clear()
        await self._redis.aclose()

    async def __aenter__(self) -> RedisStore:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _check_schema(self) -> None:
        meta = self._keys.meta
        found = await self._redis.command(lambda client: client.hget(meta, "schema"), meta)
        if found is None:
            await self._redis.command(lambda client: client.hsetnx(meta, "schema", str(SCHEMA)), meta)
        elif not found.isdecimal():
            raise CorruptState(meta, f"its schema is {found!r}, no number")
        elif int(found) > SCHEMA:
            raise SchemaTooNew(int(found), SCHEMA)

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
        keys, created = self._keys.run(run.id), now()
        op = secrets.token_hex(8)
        # The indexes first: a run that is in no index would never be found, an id without a run is passed over.
        is_known = await self._index(run.id, created)
        origin: Changes = {
            "agent": agent,
            "code": code,
            "created": time_text(created),
            **retention_fields(kept),
        }
        writes = creation(content or RunContent(run), plan, keys, origin)
        answer = await self._redis.script("create", writes.keys, [op, EVENTS_KEPT, *writes.arguments])
        failpoint("create.after_reply")
        if answer[0] == "exists":
            await self._unindex_if_over(run.id)
            raise RunExists(run.id)
        if is_known:
            # The entry was that of an earlier run of this id, which has expired.
            runs, score = self._keys.runs, int(created)
            await self._redis.command(lambda client: client.zadd(runs, {run.id: score}), runs)

    async def _index(self, run_id: RunId, created: float) -> bool:
        """Whether the run's id was in the index."""
        runs, open_runs = self._keys.runs, self._keys.open_runs
        entry: dict[str, int] = {run_id: int(created)}
        added = await self._redis.command(lambda client: client.zadd(runs, entry, nx=True), runs)
        await self._redis.command(lambda client: client.zadd(open_runs, entry, nx=True), open_runs)
        return not added

    async def _unindex_if_over(self, run_id: RunId) -> None:
        """Of a run that is over, take back what `_index` did; if it ends after this look, its last commit does."""
        if (await self.head(run_id)).status.is_final:
            await self._redis.command(
                lambda client: client.zrem(self._keys.open_runs, run_id), self._keys.open_runs
            )

    async def acquire(self, run_id: RunId, seconds: float) -> Lease:
        keys, owner = self._keys.run(run_id), current_owner()
        nonce = secrets.token_hex(4)
        length = max(1, round(seconds * 1000))
        failpoint("lease.acquire")
        answer = await self._redis.script("acquire", [keys.run, keys.lease], [owner, length, nonce, ""])
        if answer[0] == "held" and is_gone(answer[1]):
            failpoint("lease.takeover")
            answer = await self._redis.script(
                "acquire", [keys.run, keys.lease], [owner, length, nonce, answer[3]]
            )
        if answer[0] == "held":
            raise LeaseHeld(run_id, answer[1], answer[2] / 1000)
        if answer[0] == "over":
            raise RunOver(run_id)
        if answer[0] == "gone":
            raise RunNotFound(run_id, self.masked_url)
        _, token, op, revision = answer
        self._drives[run_id] = _Drive(token, op, has_begun=revision != "0")
        failpoint("lease.acquired")
        return Lease(run_id, token, owner, seconds)

    def renewer(self) -> RedisRenewer:
        return RedisRenewer(self._address, self._keys)

    async def release(self, lease: Lease) -> None:
        failpoint("lease.release")
        keys = self._keys.run(lease.run_id)
        drive = self._drives.get(lease.run_id)
        if drive is not None and drive.token == lease.token:
            del self._drives[lease.run_id]
        await self._redis.script("release", [keys.run, keys.lease], [lease.token])

    # Driving a run

    async def load(self, run_id: RunId, plan: Plan) -> Run:
        keys = self._keys.run(run_id)
        drive = self._drives.get(run_id)
        stored = await read_stored(self._redis, keys, plan, has_begun=drive is None or drive.has_begun)
        if not stored.run:
            raise RunNotFound(run_id, self.masked_url)
        run = run_from(run_id, keys, stored, plan)
        if not run.status.is_final or "mailboxes" in stored.run:
            await load_errands(self._redis, keys, plan, run, stored.run)
        for index, state in run.maps.items():
            name = plan.nodes[index].name
            if state.done + state.failed < state.total:
                lender = borrowed_from(plan, state, index)
                state.unfinished = await read_unfinished(self._redis, keys, name, lender, stored.maps[index])
            if plan.nodes[index].streams_to:
                names = await self._redis.field_names(keys.map_out(name))
                state.recorded = marked(keys.map_out(name), state.span, names)
        for index in bits(plan.maps_in_expressions):
            current = run.maps.get(index)
            if (
                current is not None
                and not current.unfinished
                and run.nodes[index].settled_as is NodeStatus.SUCCEEDED
            ):
                pages = self.result_pages(run_id, plan.nodes[index].name)
                run.map_results[index] = f"[{','.join([text async for page in pages for _, text in page])}]"
        if drive is not None:
            drive.has_begun = True
            drive.tally = Tally()
            drive.snapshots = kept_snapshots(
                await read_snapshots(self._redis, keys) if "snapshots" in stored.run else ()
            )
        return run

    def batch(self, plan: Plan, run_id: RunId) -> WriteBatch:
        drive = self._drives.get(run_id)
        if drive is None:
            return WriteBatch(plan, self._keys.run(run_id), Tally())
        return WriteBatch(plan, self._keys.run(run_id), drive.tally, drive.snapshots)

    async def commit(self, lease: Lease, batch: Batch, *, expected: int, revision: int) -> CommitReply:
        assert isinstance(batch, WriteBatch)
        drive = self._driven(lease)
        writes = batch.writes(lease.token, now())
        async with drive.inbox_lock:
            if drive.taken and not batch.ends_run:
                writes.put("LTRIM", writes.keys[2], [drive.taken])
            is_large = batch.opens_map or batch.takes_snapshot
            reply = await self._send(lease, drive, writes, expected, revision, is_large=is_large)
            drive.taken = 0
        if batch.ends_run:
            failpoint("run.ended")
            await self._redis.command(
                lambda client: client.zrem(self._keys.open_runs, lease.run_id), self._keys.open_runs
            )
        return reply

    def _driven(self, lease: Lease) -> _Drive:
        drive = self._drives.get(lease.run_id)
        if drive is None or drive.token != lease.token:
            raise LeaseLost(lease.run_id)
        return drive

    async def _send(
        self, lease: Lease, drive: _Drive, writes: WriteList, expected: int, revision: int, *, is_large: bool
    ) -> CommitReply:
        """Make the writes as one commit."""
        drive.commits += 1
        op = f"{lease.token}.{drive.commits}"
        large = "1" if is_large else "0"
        fixed: list[Argument] = [lease.token, expected, revision, drive.op, op, large, EVENTS_KEPT]
        failpoint("commit.before_send")
        answer = await self._redis.script("commit", writes.keys, fixed + writes.arguments)
        failpoint("commit.after_reply")
        if answer[0] != "ok":
            raise self._refusal(lease, expected, answer)
        drive.op = op
        return CommitReply(inbox=answer[1], is_full=bool(answer[2]))

    def _refusal(self, lease: Lease, expected: int, answer: list[Any]) -> Exception:
        if answer[0] == "gone":
            return RunNotFound(lease.run_id, self.masked_url)
        if answer[0] == "lost":
            return LeaseLost(lease.run_id, "its lease was taken" if answer[1] else "its lease is gone")
        return StoreWentBack(lease.run_id, expected, int(answer[1]))

    async def step(self, lease: Lease, node_name: str, place: Place, field: str, text: str) -> str:
        keys = self._keys.run(lease.run_id)
        arguments = [lease.token, f"{place.text(node_name)}:{field}", text]
        failpoint("step.before_send")
        answer = await self._redis.script("step", [keys.lease, keys.steps], arguments)
        if answer[0] == "lost":
            raise LeaseLost(lease.run_id, "its lease was taken" if answer[1] else "its lease is gone")
        return str(answer[1])

    async def wait_for_memory(self, run_id: RunId) -> None:
        plan = self._keys.run(run_id).plan
        # It writes nothing, but Redis refuses it when it has no memory.
        await self._redis.command(lambda client: client.setrange(plan, 0, ""), plan)

    async def waiting_requests(self, run_id: RunId) -> int:
        key = self._keys.run(run_id).inbox
        waiting: int = await self._redis.command(lambda client: client.llen(key), key)
        return waiting

    async def take_requests(self, lease: Lease) -> list[str]:
        drive = self._driven(lease)
        key = self._keys.run(lease.run_id).inbox
        async with drive.inbox_lock:
            requests: list[str] = await self._redis.command(
                lambda client: client.lrange(key, drive.taken, -1), key
            )
            drive.taken += len(requests)
        return requests

    async def replan(self, lease: Lease, plan: Plan) -> None:
        drive, keys = self._driven(lease), self._keys.run(lease.run_id)
        stored = await self._stored_graph(lease.run_id, keys)
        writes = replan_writes(lease.run_id, keys, stored, plan)
        revision = int(stored.run["revision"])
        await self._send(lease, drive, writes, revision, revision, is_large=True)

    async def _stored_graph(self, run_id: RunId, keys: RunKeys) -> StoredGraph:
        graph = await self.graph(run_id)
        run, statuses = await self._redis.hashes([keys.run, keys.nodes])
        nodes = await self._redis.hashes([keys.node(name) for name in statuses])
        snapshots = await read_snapshots(self._redis, keys)
        return StoredGraph(graph, run, statuses, dict(zip(statuses, nodes, strict=True)), snapshots)

    # Keeping and removing runs

    async def expire(self, run_id: RunId, plan: Plan) -> None:
        keys = self._keys.run(run_id)
        failpoint("expire.before")
        await expire_keys(self._redis, keys.run, await keys_but_hash(self._redis, keys, plan), last=True)

    async def delete(self, run_id: RunId) -> None:
        await delete_run(self._redis, self._keys, run_id, self.masked_url)

    async def quarantine(self, run_id: RunId, error: CorruptState) -> None:
        await quarantine(self._redis, self._keys, run_id, error)

    def upkeep(self, *, grace_seconds: float = GRACE_SECONDS) -> Upkeep:
        """What puts the whole store in order; as long as this is open."""
        return Upkeep(self._redis, self._keys, grace_seconds)

    # Looking at runs

    async def snapshots(self, run_id: RunId) -> list[Snapshot]:
        keys = self._keys.run(run_id)
        found = await read_snapshots(self._redis, keys)
        if not found:
            await self.head(run_id)
        return [stored.snapshot for stored in found]

    async def content(self, run_id: RunId, plan: Plan, at: int | None = None) -> RunContent:
        return await read_content(self._redis, self.masked_url, run_id, self._keys.run(run_id), plan, at)

    async def head(self, run_id: RunId) -> RunHead:
        keys = self._keys.run(run_id)
        (fields,) = await self._redis.hashes([keys.run])
        if not fields:
            raise RunNotFound(run_id, self.masked_url)
        return head_from(run_id, keys, fields)

    async def graph(self, run_id: RunId) -> dict[str, dict[str, Any]]:
        key = self._keys.run(run_id).plan
        return graph_from(key, await self._redis.command(lambda client: client.get(key), key))

    async def open_runs(self) -> list[RunId]:
        key = self._keys.open_runs
        ids: list[RunId] = await self._redis.command(lambda client: client.zrange(key, 0, -1), key)
        return ids

    async def recent(self, count: int) -> list[RunHead]:
        found: list[RunHead] = []
        start, page = 0, min(count, PAGE)
        while len(found) < count:
            ids = await self._recent_ids(start, start + page - 1)
            keys = [self._keys.run(run_id) for run_id in ids]
            hashes = await self._redis.hashes([each.run for each in keys])
            for run_id, each, fields in zip(ids, keys, hashes, strict=True):
                if fields:
                    found.append(head_from(run_id, each, fields))
            if len(ids) < page:
                break
            start += page
        return found[:count]

    async def _recent_ids(self, first: int, last: int) -> list[RunId]:
        key = self._keys.runs
        ids: list[RunId] = await self._redis.command(lambda client: client.zrevrange(key, first, last), key)
        return ids

    async def items(
        self, run_id: RunId, node_name: str, indexes: Sequence[int], lender: str | None = None
    ) -> list[str]:
        key = self._keys.run(run_id).items(node_name, lender)
        return await read_items(self._redis, key, indexes)

    def result_pages(
        self, run_id: RunId, node_name: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[list[tuple[int, str]]]:
        return read_result_pages(self._redis, self._keys.run(run_id), node_name, start, stop)

    async def failed_items(self, run_id: RunId, node_name: str) -> list[tuple[int, Failure, int]]:
        return await read_failures(self._redis, self._keys.run(run_id), node_name)

    async def map_progress(self, run_id: RunId) -> dict[str, MapProgress]:
        await self.head(run_id)
        return await read_progress(self._redis, self._keys.run(run_id), await self.graph(run_id))

    async def look_at_map(self, run_id: RunId, node_name: str) -> MapLook:
        look = await look_at_map(self._redis, self._keys.run(run_id), node_name)
        if look is None:
            raise RunNotFound(run_id, self.masked_url)
        return look

    async def visit_results(
        self, run_id: RunId, node_name: str, visit: int, indexes: Sequence[int]
    ) -> list[str | None] | None:
        return await read_visit_results(self._redis, self._keys.run(run_id), node_name, visit, indexes)

    async def state_text(self, run_id: RunId, key: str) -> str | None:
        state = self._keys.run(run_id).state
        text: str | None = await self._redis.command(lambda client: client.hget(state, key), state)
        return text

    async def state(self, run_id: RunId) -> dict[str, str]:
        (fields,) = await self._redis.hashes([self._keys.run(run_id).state])
        return fields

    async def events(
        self, run_id: RunId, after: str = "0", block_ms: int | None = None
    ) -> list[tuple[str, Event]]:
        key = self._keys.run(run_id).events
        return await read_events(self._redis, key, after, min(block_ms or 0, MAX_BLOCK_MS))

    async def post(self, run_id: RunId, request: str) -> bool:
        keys = self._keys.run(run_id)
        answer = await self._redis.script("post", [keys.run, keys.inbox], [secrets.token_hex(8), request])
        if answer[0] == "gone":
            raise RunNotFound(run_id, self.masked_url)
        return bool(answer[0] == "ok")
