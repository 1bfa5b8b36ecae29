"""What has to be written so that a run that began under one graph goes on under another? By the names of the nodes.

Nodes that are gone leave with their records, new ones are pending, the others keep what they came to. Snapshots, which
are of the graph that was, are dropped. A request in the
run's inbox says that the graph changed: whoever drives the run next looks at all nodes again, for nothing else would
start a new node whose dependencies have settled before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphflow.errors import UNREADABLE, CorruptState, PlanMismatch
from graphflow.ids import RunId
from graphflow.planning.differences import described_nodes, differences, obstacles
from graphflow.planning.plan import Plan
from graphflow.planning.stored_plan import plan_from_json
from graphflow.requests import graph_changed_request
from graphflow.run import NodeStatus
from graphflow.store.effects import mailboxes_of
from graphflow.store.fields import chosen_among
from graphflow.store.keys import RunKeys
from graphflow.store.loading import Fields
from graphflow.store.snapshots import StoredSnapshot, drop_all
from graphflow.store.write_list import WriteList


@dataclass(frozen=True, slots=True)
class StoredGraph:
    """What is stored of a run and its graph; `graph` and `nodes` (the hashes) are by the names of the nodes."""

    graph: dict[str, dict[str, Any]]
    run: Fields
    statuses: Fields
    nodes: Mapping[str, Fields]
    snapshots: Sequence[StoredSnapshot]


def replan_writes(run_id: RunId, keys: RunKeys, stored: StoredGraph, plan: Plan) -> WriteList:
    """The writes for `commit.lua`. PlanMismatch with its obstacles if the run cannot go on under `plan`."""
    old, new = stored.graph, described_nodes(plan.json)
    changes = differences(old, new)
    statuses = {name: NodeStatus(status) for name, status in stored.statuses.items()}
    if found := obstacles(old, new, statuses):
        raise PlanMismatch(run_id, stored.run.get("plan_hash", "unknown"), plan.hash, changes, found)
    writes = WriteList(keys.run, keys.lease, keys.inbox)
    writes.put("SET", keys.plan, [plan.json])
    writes.put("HSET", keys.run, ["plan_hash", plan.hash])
    gone = [name for name in old if name not in new]
    writes.set_fields(keys.nodes, dict.fromkeys(gone))
    writes.set_fields(
        keys.nodes, {name: statuses.get(name, NodeStatus.PENDING).value for name in new if name not in old}
    )
    for name in gone:
        for key in (keys.node(name), keys.map(name), *keys.records(name)):
            writes.put("UNLINK", key)
    for name, fields in stored.nodes.items():
        if (chosen := chosen_among(fields, new)) != fields.get("chosen"):
            writes.set_fields(keys.node(name), {"chosen": chosen})
    # They are of the graph that was.
    drop_all(writes, keys, stored.snapshots, old, mailboxes_of(keys.run, stored.run))
    writes.put("RPUSH", keys.inbox, [graph_changed_request(changes)])
    return writes


def graph_from(key: str, text: str | None) -> dict[str, dict[str, Any]]:
    """The nodes of a stored graph by name. CorruptState if it cannot be read."""
    try:
        return described_nodes(text or "")
    except UNREADABLE as error:
        raise CorruptState(key, f"{type(error).__name__}: {error}") from error


def plan_from(key: str, text: str | None) -> Plan:
    """The stored graph as a plan that cannot be run. CorruptState if it cannot be read."""
    try:
        return plan_from_json(text or "")
    except UNREADABLE as error:
        raise CorruptState(key, f"{type(error).__name__}: {error}") from error
