"""How does the mirror come back from what is stored? `RunHead` for a look, `Run` for whoever drives the run.

What is not stored follows from what is: which nodes are active, which have news to look at, which items lack a record.
Text that cannot be read is a `CorruptState` with the key that holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress
from typing import TypeVar

from pydantic_core import from_json

from graphflow.errors import UNREADABLE, CorruptState, PlanMismatch
from graphflow.graph.tasks import RunStatus, Task
from graphflow.ids import ItemNumber, NodeNumber, RunId, item_range
from graphflow.planning.plan import Plan, PlanNode
from graphflow.rules.readiness import recount
from graphflow.run import MapState, NodeState, NodeStatus, Run
from graphflow.store.contract import RunHead
from graphflow.store.fields import (
    crashes_from_text,
    end_from_text,
    node_from_fields,
    read_json,
    task_from_fields,
    task_from_text,
    time_from_text,
)
from graphflow.store.keys import RunKeys

T = TypeVar("T")
Fields = Mapping[str, str]


@dataclass(slots=True)
class StoredRun:
    """The hashes of a run as read; `nodes` and `maps` by the number of the node."""

    run: Fields
    task: Fields
    state: Fields
    revisions: Fields
    expiring: Fields
    statuses: Fields
    nodes: dict[NodeNumber, Fields]
    maps: dict[NodeNumber, Fields]


def head_from(
    run_id: RunId, keys: RunKeys, fields: Fields, task: Fields, initial: Fields | None = None
) -> RunHead:
    """Of the fields of the run, its task's, and the digests of its initial state unless these are not wanted."""

    def read() -> RunHead:
        return RunHead(
            id=run_id,
            status=RunStatus(fields["status"]),
            task=_task_from(keys, fields, task, rebuild=False),
            plan_hash=fields["plan_hash"],
            agent=fields.get("agent", ""),
            code=fields.get("code", ""),
            revision=int(fields["revision"]),
            created=time_from_text(fields["created"]),
            started=time_from_text(fields.get("started")),
            finished=time_from_text(fields.get("finished")),
            owner=fields.get("owner", ""),
            progress=fields.get("progress", ""),
            error=fields.get("error", ""),
            held=_held(fields),
            parent=fields.get("parent", ""),
            snapshot=int(fields["parent_snapshot"]) if "parent_snapshot" in fields else None,
            updated=time_from_text(fields.get("updated")) or time_from_text(fields["created"]),
            initial=dict(initial) if initial is not None and "initial" in fields else None,
        )

    return understood(keys.run, read)


def run_from(run_id: RunId, keys: RunKeys, stored: StoredRun, plan: Plan) -> Run:
    """The mirror, but for the unfinished indexes and the results of maps. PlanMismatch."""
    fields = stored.run
    if fields.get("plan_hash") != plan.hash:
        raise PlanMismatch(run_id, fields.get("plan_hash", "unknown"), plan.hash)

    def read() -> Run:
        return Run(
            id=run_id,
            task=_task_from(keys, fields, stored.task, rebuild=plan.is_runnable),
            nodes=[],
            status=RunStatus(fields["status"]),
            revision=int(fields["revision"]),
            state=dict(stored.state),
            keys_revision=int(fields.get("keys_revision", 0)),
            iterations=int(fields.get("iterations", 0)),
            deaths=int(fields.get("deaths", 0)),
            deaths_counted=int(fields.get("deaths_counted", 0)),
            limit=fields.get("limit"),
            error=fields.get("error"),
            held=_held(fields),
            started=time_from_text(fields.get("started")),
            finished=time_from_text(fields.get("finished")),
        )

    run = understood(keys.run, read)
    run.revisions = dict.fromkeys(run.state, 0) | understood(
        keys.revisions, lambda: {key: int(revision) for key, revision in stored.revisions.items()}
    )
    run.expiring = understood(
        keys.expiring,
        lambda: {key: end_from_text(end) for key, end in stored.expiring.items() if key in run.state},
    )
    _check_json(keys.state, stored.state)
    run.nodes = [_node_from(node, keys, stored, plan) for node in plan.nodes]
    recount(plan, run)
    run.maps = {
        index: understood(keys.map(plan.nodes[index].name), partial(_map_from, fields))
        for index, fields in stored.maps.items()
        if fields
    }
    return run


def _task_from(keys: RunKeys, run: Fields, task: Fields, *, rebuild: bool) -> Task:
    if not task:
        return task_from_text(run["task"], keys.run, rebuild=rebuild)
    return understood(keys.task, lambda: task_from_fields(run["task"], task, keys.task, rebuild=rebuild))


def has_gaps(stored: Fields) -> bool:
    """Whether indexes are missing among a map's items, because `where` left some out."""
    return stored.get("span") != stored.get("total")


def marked(key: str, span: int, indexes: Iterable[str]) -> bytearray:
    """A byte for each index below `span`: 1 for those among `indexes`."""

    def read() -> bytearray:
        marks = bytearray(span)
        for index in map(int, indexes):
            if index < span:
                marks[index] = 1
        return marks

    return understood(key, read)


def unfinished_indexes(
    key: str, stored: Fields, items: Iterable[str] | None, done: Iterable[str], failed: Iterable[str]
) -> set[ItemNumber]:
    """The indexes of the items without a record; `items` is None where there are no gaps. `key` is the map's."""

    def read() -> set[ItemNumber]:
        span = int(stored["span"])
        # A byte for each index: there may be millions, nearly all of them with a record.
        is_left = bytearray(b"\1") * span if items is None else marked(key, span, items)
        for index in map(int, chain(done, failed)):
            if index < span:
                is_left[index] = 0
        return set(compress(item_range(span), is_left))

    return understood(key, read)


def _node_from(node: PlanNode, keys: RunKeys, stored: StoredRun, plan: Plan) -> NodeState:
    status = understood(keys.nodes, lambda: NodeStatus(stored.statuses.get(node.name, NodeStatus.PENDING)))
    fields = stored.nodes[node.index]
    # An empty text stands for no result.
    results = {name: text for name, text in fields.items() if name.startswith(("result", "inputs")) and text}
    _check_json(keys.node(node.name), results)
    return understood(keys.node(node.name), lambda: node_from_fields(fields, status, plan, node))


def _map_from(fields: Fields) -> MapState:
    return MapState(
        visit=int(fields["visit"]),
        total=int(fields["total"]),
        done=int(fields["done"]),
        failed=int(fields["failed"]),
        retried=int(fields["retried"]),
        crashes=crashes_from_text(fields.get("crashes", "")),
        span=int(fields["span"]),
        has_more="source" in fields,
        borrowed=int(fields.get("borrowed", 0)),
    )


def _held(fields: Fields) -> tuple[str, ...]:
    return tuple(from_json(fields["held"])) if "held" in fields else ()


def _check_json(key: str, texts: Fields) -> None:
    """Values stay texts until a module asks for them; one that cannot be read is not to count as that module's failure."""
    for name, text in texts.items():
        try:
            read_json(text)
        except ValueError as error:
            raise CorruptState(key, f"field {name!r} is not JSON: {error}") from error


def understood(key: str, read: Callable[[], T]) -> T:
    """What `read` makes of what stands under `key`. CorruptState if it cannot."""
    try:
        return read()
    except UNREADABLE as error:
        raise CorruptState(key, f"{type(error).__name__}: {error}") from error
