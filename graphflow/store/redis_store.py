"""Runs in Redis: the store that the engine drives, the CLI looks into, and every process shares.

Writes go through one script each and carry an operation id, so a lost reply is answered by asking again: until the
store's patience ends, a call lasts as long as Redis does not answer or takes no writes. Keys are in `keys.py`, the form
of what is stored in `fields.py` and `writes.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from graphflow.beside_loop import beside_loop
from graphflow.clock import now
from graphflow.errors import (
    CorruptState,
    LeaseHeld,
    RunExists,
    RunNotFound,
    RunOver,
    SchemaTooNew,
)
from graphflow.events import Event
from graphflow.failpoints import failpoint
from graphflow.ids import ItemNumber, RunId
from graphflow.planning.plan import Plan
from graphflow.run import Failure, Run, SourcePage
from graphflow.server.address import Address
from graphflow.server.embedded import EmbeddedServer
from graphflow.server.owner import current_owner, is_gone
from graphflow.settings import OnRisk
from graphflow.store.checks import check_rights, check_server
from graphflow.store.content import creation, read_content, read_graph, read_run
from graphflow.store.contract import (
    DEFAULT_RETENTION,
    Lease,
    MapLook,
    MapProgress,
    Retention,
    RunContent,
    RunHead,
    SignalWait,
    Snapshot,
    UnreadableHead,
)
from graphflow.store.effects import read_waits
from graphflow.store.event_log import read_events
from graphflow.store.fields import Changes, time_text
from graphflow.store.held_run import EVENTS_KEPT, RedisHeldRun
from graphflow.store.keys import StoreKeys
from graphflow.store.loading import head_from
from graphflow.store.pages import read_heads
from graphflow.store.patient_client import PatientClient
from graphflow.store.progress import look_at_map, read_progress
from graphflow.store.records import (
    read_failures,
    read_items,
    read_result_pages,
    read_source_pages,
    read_visit_results,
)
from graphflow.store.renewer import RedisRenewer
from graphflow.store.replan import plan_from
from graphflow.store.retention import delete_run, expire_keys, keys_but_hash, quarantine, retention_fields
from graphflow.store.snapshots import read_snapshots
from graphflow.store.upkeep import GRACE_SECONDS, Upkeep

#: The layout that this file reads and writes.
SCHEMA = 1
#: Seconds for which a call goes on asking a store that does not answer or takes no writes.
PATIENCE_SECONDS = 30.0
#: Milliseconds that one read waits for new events at most.
MAX_BLOCK_MS = 2_000


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

    # Opening and closing

    async def open(self) -> None:
        if self._server is not None:
            await beside_loop(self._server.start)
        await self._redis.open()
        try:
            await _check_schema(self._redis, self._keys.meta)
            await check_server(self._redis, self._address, self._on_risk)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def __aenter__(self) -> RedisStore:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

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
        await check_rights(self._redis, self._address, self._keys.prefix)
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
            if (await self.head(run.id)).status.is_final:
                # What `_index` did is taken back; of a run that ends after this look its last commit does that.
                open_runs = self._keys.open_runs
                await self._redis.command(lambda client: client.zrem(open_runs, run.id), open_runs)
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

    async def acquire(self, run_id: RunId, seconds: float) -> RedisHeldRun:
        await check_rights(self._redis, self._address, self._keys.prefix)
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
        failpoint("lease.acquired")
        lease = Lease(run_id, token, owner, seconds)
        return RedisHeldRun(self._redis, self._keys, self.masked_url, lease, op=op, has_begun=revision != "0")

    def renewer(self) -> RedisRenewer:
        return RedisRenewer(self._address, self._keys)

    async def wait_for_memory(self, run_id: RunId) -> None:
        plan = self._keys.run(run_id).plan
        # It writes nothing, but Redis refuses it when it has no memory.
        await self._redis.command(lambda client: client.setrange(plan, 0, ""), plan)

    async def waits(self, run_id: RunId, signal: str | None = None) -> list[SignalWait]:
        return await read_waits(self._redis, self._keys.run(run_id), signal)

    async def waiting_requests(self, run_id: RunId) -> int:
        key = self._keys.run(run_id).inbox
        waiting: int = await self._redis.command(lambda client: client.llen(key), key)
        return waiting

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

    async def load(self, run_id: RunId, plan: Plan) -> Run:
        run, _ = await read_run(self._redis, self.masked_url, run_id, self._keys.run(run_id), plan)
        return run

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
        fields, task, initial = await self._redis.hashes([keys.run, keys.task, keys.initial])
        if not fields:
            raise RunNotFound(run_id, self.masked_url)
        return head_from(run_id, keys, fields, task, initial)

    async def graph(self, run_id: RunId) -> dict[str, dict[str, Any]]:
        return await read_graph(self._redis, self._keys.run(run_id))

    async def plan(self, run_id: RunId) -> Plan:
        key = self._keys.run(run_id).plan
        return plan_from(key, await self._redis.command(lambda client: client.get(key), key))

    async def open_runs(self) -> list[RunId]:
        key = self._keys.open_runs
        ids: list[RunId] = await self._redis.command(lambda client: client.zrange(key, 0, -1), key)
        return ids

    def heads(self, since: float = 0.0) -> AsyncGenerator[RunHead | UnreadableHead, None]:
        return read_heads(self._redis, self._keys, since)

    async def recent(self, count: int) -> list[RunHead]:
        found: list[RunHead] = []
        async with aclosing(read_heads(self._redis, self._keys, 0.0)) as heads:
            async for head in heads:
                if isinstance(head, UnreadableHead):
                    raise head.error
                found.append(head)
                if len(found) == count:
                    break
        return found

    async def items(
        self, run_id: RunId, node_name: str, indexes: Sequence[ItemNumber], lender: str | None = None
    ) -> list[str]:
        key = self._keys.run(run_id).items(node_name, lender)
        return await read_items(self._redis, key, indexes)

    def result_pages(
        self, run_id: RunId, node_name: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[list[tuple[ItemNumber, str]]]:
        return read_result_pages(self._redis, self._keys.run(run_id), node_name, start, stop)

    async def source_pages(self, run_id: RunId, node_name: str) -> list[SourcePage]:
        return await read_source_pages(self._redis, self._keys.run(run_id), node_name)

    async def failed_items(self, run_id: RunId, node_name: str) -> list[tuple[ItemNumber, Failure, int]]:
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
        self, run_id: RunId, node_name: str, visit: int, indexes: Sequence[ItemNumber]
    ) -> list[str | None] | None:
        return await read_visit_results(self._redis, self._keys.run(run_id), node_name, visit, indexes)

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


async def _check_schema(redis: PatientClient, meta: str) -> None:
    found = await redis.command(lambda client: client.hget(meta, "schema"), meta)
    if found is None:
        await redis.command(lambda client: client.hsetnx(meta, "schema", str(SCHEMA)), meta)
    elif not found.isdecimal():
        raise CorruptState(meta, f"its schema is {found!r}, no number")
    elif int(found) > SCHEMA:
        raise SchemaTooNew(int(found), SCHEMA)
