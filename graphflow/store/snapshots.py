"""Which snapshots does a run keep, and what does a commit write to take one?

A snapshot is taken by the commit that settles its node, with the same script: the state, the nodes, the maps' counters
and what modules remember, wait for and have sent are copied on the server. Records of maps are not copied. A snapshot names the visit that they are of
and the indexes that had none yet, and a later visit moves records aside instead of removing them, until the last
snapshot that names them is dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphflow.events import index_ranges, indexes_of
from graphflow.ids import ItemNumber, NodeNumber
from graphflow.planning.plan import Plan
from graphflow.run import NodeState, Run
from graphflow.store.contract import Snapshot
from graphflow.store.effects import mailboxes_of, mailboxes_text
from graphflow.store.fields import Changes, time_from_text, time_text
from graphflow.store.keys import RunKeys
from graphflow.store.loading import understood

if TYPE_CHECKING:
    from graphflow.store.patient_client import PatientClient
    from graphflow.store.write_list import WriteList

#: The last so many of a run are kept.
SNAPSHOTS_KEPT = 10

_VISIT, _UNFINISHED = "visit:", "unfinished:"


@dataclass(slots=True)
class KeptSnapshots:
    """The snapshots of a run that is driven here: for each number the visits of its maps, by name."""

    visits: dict[int, dict[str, int]] = field(default_factory=dict)

    def name(self, node: str, visit: int) -> bool:
        """Whether one of them needs the records of this visit."""
        return any(visits.get(node) == visit for visits in self.visits.values())

    def take(
        self,
        writes: WriteList,
        keys: RunKeys,
        plan: Plan,
        run: Run,
        settled: Iterable[NodeNumber],
        now: float,
    ) -> None:
        """Add to a commit what keeps the run as it is after it; `now` is in ms since 1970."""
        number = max(self.visits, default=0) + 1
        copy = keys.snapshot(number)
        writes.set_fields(copy.run, _fields(plan, run, settled, now))
        sources, targets = (_parts(of, plan, run, run.mailboxes) for of in (keys, copy))
        for source, target in zip(sources, targets, strict=True):
            writes.put_pair("COPY", source, target)
        self.visits[number] = {plan.nodes[index].name: state.visit for index, state in run.maps.items()}
        while len(self.visits) > SNAPSHOTS_KEPT:
            self._drop(min(self.visits), writes, keys, plan, run)
        writes.put("HSET", keys.run, ["snapshots", " ".join(map(str, self.visits))])

    def _drop(self, number: int, writes: WriteList, keys: RunKeys, plan: Plan, run: Run) -> None:
        visits = self.visits.pop(number)
        for key in all_parts(keys.snapshot(number), plan, run.mailboxes):
            writes.put("UNLINK", key)
        for name, visit in visits.items():
            if visit != run.maps[plan.by_name[name]].visit and not self.name(name, visit):
                for key in keys.records(name, visit):
                    writes.put("UNLINK", key)


def _fields(plan: Plan, run: Run, settled: Iterable[NodeNumber], now: float) -> Changes:
    fields: Changes = {
        "revision": str(run.revision),
        "at": time_text(now),
        # Another graph may be accepted for the run later.
        "plan_hash": plan.hash,
        "nodes": " ".join(plan.nodes[index].name for index in settled),
        "iterations": str(run.iterations),
        "keys_revision": str(run.keys_revision),
    }
    if run.mailboxes:
        fields["mailboxes"] = mailboxes_text(list(run.mailboxes))
    for index, state in run.maps.items():
        name = plan.nodes[index].name
        fields[_VISIT + name] = str(state.visit)
        if state.unfinished:
            fields[_UNFINISHED + name] = index_ranges(state.unfinished)
    return fields


def _parts(keys: RunKeys, plan: Plan, run: Run, mailboxes: Iterable[str]) -> list[str]:
    """What is copied of a run, in one order for the run and for its snapshot."""
    untouched = NodeState()
    nodes = [keys.node(node.name) for node in plan.nodes if run.nodes[node.index] != untouched]
    maps = [keys.map(plan.nodes[index].name) for index in run.maps]
    expiring = [keys.expiring] if run.expiring else []
    return [*_common_parts(keys, mailboxes), *expiring, *nodes, *maps]


def all_parts(keys: RunKeys, plan: Plan, mailboxes: Iterable[str]) -> list[str]:
    """Every key that a snapshot may have."""
    nodes = [keys.node(node.name) for node in plan.nodes]
    maps = [keys.map(node.name) for node in plan.nodes if node.map is not None]
    return [keys.run, *_common_parts(keys, mailboxes), keys.expiring, *nodes, *maps]


def _common_parts(keys: RunKeys, mailboxes: Iterable[str]) -> list[str]:
    of_modules = (keys.steps, keys.waits, keys.signals, *map(keys.mailbox, mailboxes))
    return [keys.state, keys.revisions, keys.nodes, *of_modules]


def drop_all(
    writes: WriteList,
    keys: RunKeys,
    snapshots: Sequence[StoredSnapshot],
    nodes: Collection[str],
    mailboxes: Collection[str],
) -> None:
    """Add to a commit what removes every snapshot of a run whose graph had these nodes."""
    for stored in snapshots:
        copy = keys.snapshot(stored.snapshot.number)
        parts = [copy.run, *_common_parts(copy, mailboxes), copy.expiring, *map(copy.node, nodes)]
        for name, visit in stored.visits.items():
            # What the run itself still has of this visit lies under other keys.
            parts += (copy.map(name), *keys.records(name, visit))
        for key in parts:
            writes.put("UNLINK", key)
    if snapshots:
        writes.put("HDEL", keys.run, ["snapshots"])


# Reading


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """What a snapshot says of itself, in the hash under `key`. `visits` are those that the records of maps are of."""

    key: str
    snapshot: Snapshot
    visits: dict[str, int]
    fields: Mapping[str, str]

    def unfinished(self, node: str) -> set[ItemNumber]:
        """Indexes of a map's items that had no record yet. CorruptState."""
        return understood(self.key, lambda: set(indexes_of(self.fields.get(_UNFINISHED + node, ""))))


def _with_prefix(fields: Mapping[str, str], prefix: str) -> list[tuple[str, str]]:
    return [(name.removeprefix(prefix), text) for name, text in fields.items() if name.startswith(prefix)]


async def read_snapshots(redis: PatientClient, keys: RunKeys) -> list[StoredSnapshot]:
    """The snapshots that are kept, the first one first. CorruptState."""
    text = await redis.command(lambda client: client.hget(keys.run, "snapshots"), keys.run)
    numbers = understood(keys.run, lambda: [int(number) for number in (text or "").split()])
    hashes = await redis.hashes([keys.snapshot(number).run for number in numbers]) if numbers else []
    # One that was dropped between the two looks has no fields.
    return [
        _stored(keys.snapshot(number).run, number, fields)
        for number, fields in zip(numbers, hashes, strict=True)
        if fields
    ]


def _stored(key: str, number: int, fields: Mapping[str, str]) -> StoredSnapshot:
    def read() -> StoredSnapshot:
        snapshot = Snapshot(
            number=number,
            nodes=tuple(fields["nodes"].split()),
            time=time_from_text(fields["at"]) / 1000,
            revision=int(fields["revision"]),
        )
        visits = {name: int(visit) for name, visit in _with_prefix(fields, _VISIT)}
        return StoredSnapshot(key, snapshot, visits, fields)

    return understood(key, read)


def kept_snapshots(stored: Iterable[StoredSnapshot]) -> KeptSnapshots:
    return KeptSnapshots({each.snapshot.number: each.visits for each in stored})


async def snapshot_keys(redis: PatientClient, keys: RunKeys, plan: Plan) -> list[str]:
    """Every key that the run's snapshots have, records of earlier visits included."""
    found: dict[str, None] = {}
    for stored in await read_snapshots(redis, keys):
        own = keys.snapshot(stored.snapshot.number)
        parts = all_parts(own, plan, mailboxes_of(stored.key, stored.fields))
        found |= dict.fromkeys(parts)
        for name, visit in stored.visits.items():
            found |= dict.fromkeys(keys.records(name, visit))
    return list(found)
