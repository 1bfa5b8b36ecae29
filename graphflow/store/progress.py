"""How far are the maps of a run, and in which visit? Read from counters that the run stores with every batch of items, by any process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphflow import clock
from graphflow.errors import UNREADABLE, CorruptState
from graphflow.graph.tasks import RunStatus
from graphflow.planning.describe import is_map
from graphflow.run import NodeStatus
from graphflow.store.contract import MapLook, MapProgress
from graphflow.store.fields import median_from_text, stragglers_from_text, time_from_text
from graphflow.store.keys import RunKeys
from graphflow.store.loading import Fields
from graphflow.store.patient_client import PatientClient


async def read_progress(
    redis: PatientClient, keys: RunKeys, graph: Mapping[str, Mapping[str, Any]]
) -> dict[str, MapProgress]:
    """By the name of the map node; `graph` are the described nodes of the run. CorruptState."""
    names = [name for name, node in graph.items() if is_map(node)]
    # The maps first: with a node that has gone on meanwhile, counters of its earlier visit are known as such.
    hashes = await redis.hashes([*map(keys.map, names), *map(keys.node, names), keys.nodes, keys.run])
    maps, nodes, (statuses, run) = hashes[: len(names)], hashes[len(names) : -2], hashes[-2:]
    now = clock.now()
    found = {}
    for name, counters, node in zip(names, maps, nodes, strict=True):
        try:
            found[name] = progress_from(counters, node, statuses.get(name, ""), run, now)
        except UNREADABLE as error:
            raise CorruptState(keys.map(name), f"{type(error).__name__}: {error}") from error
    return found


async def look_at_map(redis: PatientClient, keys: RunKeys, name: str) -> MapLook | None:
    """None if the run is gone. CorruptState."""
    hashes = await redis.hashes([keys.map(name), keys.node(name), keys.nodes, keys.run])
    counters, node, statuses, run = hashes
    if not run:
        return None
    try:
        return MapLook(
            visit=int(node.get("visits", 0)),
            is_active=NodeStatus(statuses.get(name, NodeStatus.PENDING)).is_active,
            run_is_over=RunStatus(run["status"]).is_final,
            recorded=int(counters.get("visit", 0)),
            span=int(counters.get("span", 0)),
        )
    except UNREADABLE as error:
        raise CorruptState(keys.map(name), f"{type(error).__name__}: {error}") from error


def progress_from(counters: Fields, node: Fields, status: str, run: Fields, now: float) -> MapProgress:
    """From the hashes of a map, of its node and of the run, and the node's status; `now` is in ms since 1970."""
    if not counters or counters["visit"] != node.get("visits"):
        return MapProgress()
    is_active = NodeStatus(status).is_active
    progress = MapProgress(
        total=int(counters["total"]) if "total" in counters and "source" not in counters else None,
        done=int(counters.get("done", 0)),
        failed=int(counters.get("failed", 0)),
        retried=int(counters.get("retried", 0)),
        active=int(counters.get("active", 0)) if is_active else 0,
        median_seconds=median_from_text(counters.get("median_ms")),
        stragglers=stragglers_from_text(counters.get("stragglers")),
    )
    return replace(progress, eta_seconds=_eta_seconds(progress, node, run, now, is_active=is_active))


def _eta_seconds(
    progress: MapProgress, node: Fields, run: Fields, now: float, *, is_active: bool
) -> float | None:
    ended = progress.done + progress.failed
    if progress.total == ended:
        return 0.0
    started = time_from_text(node.get("started"))
    is_driven = is_active and run.get("status") == RunStatus.EXECUTING.value and bool(run.get("owner"))
    # The visit of a run that was forked began in another run, with items that ended there.
    is_own = time_from_text(run.get("started")) <= started < now
    if progress.total is None or not ended or not is_driven or not is_own:
        return None
    return (now - started) / 1000 * (progress.total - ended) / ended
