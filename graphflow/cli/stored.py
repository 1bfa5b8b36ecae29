"""What does the store say of a run to somebody who does not have its agent? Reads heads, nodes and failures."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from graphflow.cli.faces import NodeRow, items_text
from graphflow.clock import now
from graphflow.errors import UNREADABLE, CorruptState, RunNotFound
from graphflow.ids import RunId, check_run_id
from graphflow.planning.describe import lists_results
from graphflow.planning.differences import described_nodes
from graphflow.result import RunFailure, run_failure
from graphflow.run import NodeStatus
from graphflow.server.address import Address
from graphflow.server.connection import open_client, translate_errors
from graphflow.server.owner import is_gone
from graphflow.settings import load_settings
from graphflow.store.contract import RunHead, Store
from graphflow.store.fields import failure_from_text, item_failure_from_text, time_from_text
from graphflow.store.keys import StoreKeys
from graphflow.store.opening import address_of, is_there, store_at

LATEST = "@last"

_NODE_FIELDS = ("visits", "started", "finished", "error")


@dataclass(frozen=True, slots=True)
class StoredNode:
    """One node as stored: its hash, and that of its map (empty if it is none)."""

    row: NodeRow
    is_map: bool
    failed_items: int
    failure: RunFailure | None


class Looker:
    """Reads a store; `store` is the same store as the engine knows it."""

    def __init__(self, address: Address, store: Store, client: Any, keys: StoreKeys) -> None:
        self.address = address
        self.store = store
        #: redis-py, whose types differ from version to version.
        self._client = client
        self.keys = keys

    async def head(self, reference: str) -> RunHead:
        """The run of an id, or the latest run for `@last`. RunNotFound."""
        if reference != LATEST:
            return await self.store.head(RunId(reference))
        latest = await self.store.recent(1)
        if not latest:
            raise RunNotFound(LATEST, self.store.masked_url)
        return latest[0]

    async def driver(self, run_id: str) -> str:
        """Who holds the run's lease, as stored; empty if it is free or expired, or its holder is known to be gone."""
        key = self.keys.run(run_id).lease
        with self._reading(key):
            owner, deadline = await self._client.hmget(key, "owner", "deadline")
            seconds, microseconds = await self._client.time()
            if not owner or float(deadline or 0) < seconds * 1000 + microseconds / 1000 or is_gone(owner):
                return ""
        return str(owner)

    async def nodes(self, run_id: str) -> list[StoredNode]:
        """In the order of the run's graph, each sub-graph before what is inside of it."""
        keys = self.keys.run(run_id)
        with self._reading(keys.plan):
            described = described_nodes(await self._client.get(keys.plan) or '{"nodes": []}')
            statuses = await self._client.hgetall(keys.nodes)
            async with self._client.pipeline(transaction=False) as pipe:
                for name, node in described.items():
                    pipe.hmget(keys.node(name), [*_NODE_FIELDS, *_attempt_fields(node)])
                    pipe.hgetall(keys.map(name))
                found = await pipe.execute()
            return [
                _stored_node(name, statuses, values, records, is_map=lists_results(node))
                for (name, node), values, records in zip(
                    described.items(), found[::2], found[1::2], strict=True
                )
            ]

    async def failed_items(self, run_id: str, node: str, limit: int) -> list[RunFailure]:
        """The first failed items of a map."""
        key = self.keys.run(run_id).map_failed(node)
        with self._reading(key):
            indexes = sorted(map(int, await self._client.hkeys(key)))[:limit]
            texts = await self._client.hmget(key, [str(index) for index in indexes]) if indexes else []
            return [
                run_failure(node, index, failure, attempts)
                for index, text in zip(indexes, texts, strict=True)
                for failure, attempts in [item_failure_from_text(text)]
            ]

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            with translate_errors(self.address):
                yield
        except UNREADABLE as error:
            raise CorruptState(key, f"{type(error).__name__}: {error}") from error


def store_with_run(reference: str, url: str | None) -> Address:
    """Where a command looks for a run. InvalidName, or RunNotFound where no store is yet."""
    if reference != LATEST:
        check_run_id(reference)
    address = address_of(url)
    if not is_there(address):
        raise RunNotFound(reference, address.masked)
    return address


@asynccontextmanager
async def looking_at(address: Address, prefix: str | None = None) -> AsyncIterator[Looker]:
    """`prefix` is that of the keys, by default the setting."""
    prefix = prefix or load_settings().prefix
    async with store_at(address, prefix) as store:
        client = await open_client(address, role="look", max_connections=1)
        try:
            yield Looker(address, store, client, StoreKeys(prefix))
        finally:
            await client.aclose()


def _attempt_fields(node: Mapping[str, Any]) -> list[str]:
    return [f"attempts:{place}" for place in range(len(node["modules"]))]


def _stored_node(
    name: str,
    statuses: Mapping[str, str],
    values: Sequence[str | None],
    records: Mapping[str, str],
    *,
    is_map: bool,
) -> StoredNode:
    visits, started, finished, error, *counts = values
    status = NodeStatus(statuses.get(name, NodeStatus.PENDING))
    attempts = sum(int(count or 0) for count in counts)
    failure = None
    if status is NodeStatus.FAILED and error:
        failure = run_failure(name, None, failure_from_text(error), attempts)
    done, failed, total = (int(records.get(field, 0)) for field in ("done", "failed", "total"))
    row = NodeRow(
        name=name,
        status=status.value,
        visits=int(visits or 0),
        attempts=attempts,
        seconds=_seconds(time_from_text(started), time_from_text(finished)),
        items=items_text(done, failed, total) if records else "",
    )
    return StoredNode(row, is_map, failed, failure)


def _seconds(started: float, finished: float) -> float | None:
    """Of the latest visit, so far if it has not finished; None if there was none."""
    if not started:
        return None
    return max(0.0, (finished or now()) - started) / 1000
