"""A run in Redis while this process holds its lease: the handle for all that only its driver may do.

What this process knows of the run besides, such as the operation id of its last commit, lives here and ends with it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from graphflow.clock import now
from graphflow.errors import LeaseLost, RunNotFound, StoreWentBack
from graphflow.failpoints import failpoint
from graphflow.planning.plan import Plan
from graphflow.run import Place, Run
from graphflow.store.content import read_graph, read_run
from graphflow.store.contract import Batch, CommitReply, Lease
from graphflow.store.keys import StoreKeys
from graphflow.store.loading import understood
from graphflow.store.patient_client import PatientClient
from graphflow.store.replan import StoredGraph, replan_writes
from graphflow.store.scripts import Argument
from graphflow.store.snapshots import KeptSnapshots, kept_snapshots, read_snapshots
from graphflow.store.write_list import WriteList
from graphflow.store.writes import Tally, WriteBatch

#: Entries that an event stream is cut to, about.
EVENTS_KEPT = 100_000


class RedisHeldRun:
    """See `contract.HeldRun`. `op` is the operation id of the last commit of the run when the lease was taken."""

    def __init__(
        self,
        redis: PatientClient,
        keys: StoreKeys,
        store: str,
        lease: Lease,
        *,
        op: str,
        has_begun: bool,
    ) -> None:
        self.lease = lease
        self._redis = redis
        self._store_keys = keys
        self._keys = keys.run(lease.run_id)
        #: Where it is, as people may see it.
        self._store = store
        self._op = op
        #: There were outcomes when the lease was taken.
        self._has_begun = has_begun
        self._commits = 0
        #: Requests taken from the inbox that still stand there.
        self._taken = 0
        self._tally = Tally()
        self._snapshots = KeptSnapshots()
        #: Held by what moves the head of the inbox, or counts on its place.
        self._inbox_lock = asyncio.Lock()

    async def load(self, plan: Plan) -> Run:
        run, fields = await read_run(
            self._redis, self._store, self.lease.run_id, self._keys, plan, has_begun=self._has_begun
        )
        self._has_begun = True
        self._tally = Tally()
        self._snapshots = kept_snapshots(
            await read_snapshots(self._redis, self._keys) if "snapshots" in fields else ()
        )
        return run

    def batch(self, plan: Plan) -> WriteBatch:
        return WriteBatch(plan, self._keys, self._tally, self._snapshots)

    async def commit(self, batch: Batch, *, expected: int, revision: int) -> CommitReply:
        assert isinstance(batch, WriteBatch)
        writes = batch.writes(self.lease.token, now())
        async with self._inbox_lock:
            if self._taken and not batch.ends_run:
                writes.put("LTRIM", writes.keys[2], [self._taken])
            is_large = batch.opens_map or batch.takes_snapshot
            reply = await self._send(writes, expected, revision, is_large=is_large)
            self._taken = 0
        if batch.ends_run:
            failpoint("run.ended")
            open_runs, run_id = self._store_keys.open_runs, self.lease.run_id
            await self._redis.command(lambda client: client.zrem(open_runs, run_id), open_runs)
        return reply

    async def _send(self, writes: WriteList, expected: int, revision: int, *, is_large: bool) -> CommitReply:
        """Make the writes as one commit."""
        self._commits += 1
        op = f"{self.lease.token}.{self._commits}"
        large = "1" if is_large else "0"
        fixed: list[Argument] = [self.lease.token, expected, revision, self._op, op, large, EVENTS_KEPT]
        failpoint("commit.before_send")
        answer = await self._redis.script("commit", writes.keys, fixed + writes.arguments)
        failpoint("commit.after_reply")
        if answer[0] != "ok":
            raise self._refusal(expected, answer)
        self._op = op
        return CommitReply(inbox=answer[1], is_full=bool(answer[2]))

    def _refusal(self, expected: int, answer: list[Any]) -> Exception:
        if answer[0] == "gone":
            return RunNotFound(self.lease.run_id, self._store)
        if answer[0] == "lost":
            return self._lost(answer)
        return StoreWentBack(self.lease.run_id, expected, int(answer[1]))

    def _lost(self, answer: list[Any]) -> LeaseLost:
        return LeaseLost(self.lease.run_id, "its lease was taken" if answer[1] else "its lease is gone")

    async def step(self, node_name: str, place: Place, field: str, text: str) -> str:
        arguments = [self.lease.token, f"{place.text(node_name)}:{field}", text]
        failpoint("step.before_send")
        answer = await self._redis.script("step", [self._keys.lease, self._keys.steps], arguments)
        if answer[0] == "lost":
            raise self._lost(answer)
        return str(answer[1])

    async def take_requests(self) -> list[str]:
        key = self._keys.inbox
        async with self._inbox_lock:
            requests: list[str] = await self._redis.command(
                lambda client: client.lrange(key, self._taken, -1), key
            )
            self._taken += len(requests)
        return requests

    async def replan(self, plan: Plan) -> None:
        stored = await self._stored_graph()
        writes = replan_writes(self.lease.run_id, self._keys, stored, plan)
        revision = understood(self._keys.run, lambda: int(stored.run["revision"]))
        await self._send(writes, revision, revision, is_large=True)

    async def _stored_graph(self) -> StoredGraph:
        keys = self._keys
        graph = await read_graph(self._redis, keys)
        run, statuses = await self._redis.hashes([keys.run, keys.nodes])
        nodes = await self._redis.hashes([keys.node(name) for name in statuses])
        snapshots = await read_snapshots(self._redis, keys)
        return StoredGraph(graph, run, statuses, dict(zip(statuses, nodes, strict=True)), snapshots)

    async def release(self) -> None:
        failpoint("lease.release")
        await self._redis.script("release", [self._keys.run, self._keys.lease], [self.lease.token])
