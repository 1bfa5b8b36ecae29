"""What has to be written because of a transition? Only what differs from the mirror, gathered for one commit.

The mirror changes with every transition of a batch, so later differences complete earlier ones: of a field that changes
twice the last text is written. A node is compared once, as it is at the end with how it was before the first of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import cast

from pydantic_core import to_json

from graphflow.events import Event, ItemsFinished, event_fields
from graphflow.graph.nodes import SnapshotControl
from graphflow.graph.tasks import RunStatus
from graphflow.ids import ItemNumber, NodeNumber
from graphflow.planning.plan import Plan
from graphflow.run import MapState, NodeState, NodeStatus, Run
from graphflow.store.effects import EffectWrites, mailboxes_text
from graphflow.store.fields import (
    Changes,
    crashes_text,
    end_text,
    failure_text,
    median_text,
    node_changes,
    page_text,
    stragglers_text,
    time_text,
)
from graphflow.store.keys import RunKeys
from graphflow.store.scripts import Argument
from graphflow.store.snapshots import KeptSnapshots
from graphflow.store.write_list import WriteList
from graphflow.transition import MapChange, Transition

#: Characters that an event takes besides its texts, about.
_EVENT_SIZE = 100
#: Fields, and characters besides the results of its modules, that a change of a node takes, about.
_NODE_FIELDS = 5
_NODE_SIZE = 100
#: Statuses of nodes that progress counts.
SETTLED = frozenset({NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.SKIPPED})


@dataclass(slots=True)
class Tally:
    """How many nodes of a run have settled and are not active; kept while this process drives the run."""

    settled: int | None = None

    def update(self, run: Run, stored: Mapping[NodeNumber, NodeState]) -> None:
        """`stored` are the nodes that have changed since the last time, as they were then."""
        if self.settled is None:
            self.settled = sum(state.status in SETTLED for state in run.nodes)
            return
        for index, old in stored.items():
            self.settled += (run.nodes[index].status in SETTLED) - (old.status in SETTLED)


@dataclass(slots=True)
class _MapWrites:
    """Of one map node. Records lie flat: index, text, index, text."""

    fields: Changes = field(default_factory=dict)
    opened: bool = False
    #: The visit whose records are stored, if `opened` is to replace them.
    replaced: int | None = None
    items: list[Argument] = field(default_factory=list)
    done: list[Argument] = field(default_factory=list)
    failed: list[Argument] = field(default_factory=list)
    pages: Changes = field(default_factory=dict)


class WriteBatch:
    """The writes of one commit; see `contract.Batch`."""

    def __init__(
        self, plan: Plan, keys: RunKeys, tally: Tally, snapshots: KeptSnapshots | None = None
    ) -> None:
        self.size = 0
        self.operations = 0
        self._plan = plan
        self._keys = keys
        self._tally = tally
        self._snapshots = KeptSnapshots() if snapshots is None else snapshots
        #: Nodes that ask for a snapshot, in the order in which they settled.
        self._keeping: dict[NodeNumber, None] = {}
        self._run: Run | None = None
        self._moves = False
        self._fields: Changes = {}
        #: The nodes that change, as they are stored.
        self._stored: dict[NodeNumber, NodeState] = {}
        self._state: Changes = {}
        self._revisions: Changes = {}
        self._expiring: Changes = {}
        self._maps: dict[NodeNumber, _MapWrites] = {}
        self._effects = EffectWrites(plan)
        self._events: list[Event] = []

    @property
    def is_empty(self) -> bool:
        """Also a revision that moves without further change has to be stored: the next commit expects it."""
        return not (self._moves or self.operations)

    @property
    def opens_map(self) -> bool:
        return any(writes.opened for writes in self._maps.values())

    @property
    def ends_run(self) -> bool:
        return "finished" in self._fields

    @property
    def takes_snapshot(self) -> bool:
        """The end of a run takes none: that is how the run stays."""
        return bool(self._keeping) and not self.ends_run

    def add(self, run: Run, transition: Transition) -> None:
        self._run = run
        self._moves = self._moves or transition.revision != run.revision
        self._add_run(run, transition)
        for index, state in transition.nodes.items():
            self._add_node(index, run.nodes[index], state)
        if transition.state:
            self._add_state(run, transition)
        if transition.expiring:
            ends: Changes = {key: end_text(end) for key, end in transition.expiring.items()}
            self._expiring |= ends
            self._count(ends)
        for index, change in transition.maps.items():
            self._add_map(index, run.maps.get(index), change)
        if transition.steps or transition.waits or transition.signals or transition.sent or transition.taken:
            self._add_effects(run, transition)
        if transition.events:
            self._events += transition.events
            self.operations += len(transition.events)
            self.size += _EVENT_SIZE * len(transition.events)

    def writes(self, token: str, now: float) -> WriteList:
        """The list for `commit.lua`, asked for before the run changes any further. `token` goes into the events of
        finished items, `now` is in ms since 1970."""
        keys, plan = self._keys, self._plan
        writes = WriteList(keys.run, keys.lease, keys.inbox)
        assert self._run is not None
        self._tally.update(self._run, self._stored)
        writes.set_fields(
            keys.run, self._fields | {"updated": time_text(now), "progress": self._progress(self._run)}
        )
        self._write_nodes(writes, self._run)
        if self._state:
            writes.set_fields(keys.state, self._state)
            writes.set_fields(keys.revisions, self._revisions)
        if self._expiring:
            writes.set_fields(keys.expiring, self._expiring)
        for index, records in self._maps.items():
            self._write_map(writes, plan.nodes[index].name, records)
        self._effects.put(writes, keys)
        for event in self._events:
            if isinstance(event, ItemsFinished):
                event.token = token
            writes.put("XADD", keys.events, [*chain.from_iterable(event_fields(event).items())])
        if self.takes_snapshot:
            self._snapshots.take(writes, keys, plan, self._run, self._keeping, now)
        if self.ends_run:
            # The lease with it: a process that dies right after this commit will never give it back.
            writes.put("HDEL", keys.run, ["owner"])
            writes.put("UNLINK", keys.lease)
            for key in (keys.inbox, keys.waits, keys.signals):
                writes.put("UNLINK", key)
            if self._fields.get("status") == RunStatus.COMPLETE.value:
                # Otherwise who tries the run again remembers what was called.
                writes.put("UNLINK", keys.steps)
        return writes

    def _add_run(self, run: Run, transition: Transition) -> None:
        fields = self._fields
        known = len(fields)
        if transition.status is not None and transition.status is not run.status:
            fields["status"] = transition.status.value
        if transition.iterations != run.iterations:
            fields["iterations"] = str(transition.iterations)
        if transition.started:
            fields["started"] = time_text(transition.started)
        if transition.finished:
            fields["finished"] = time_text(transition.finished)
        if transition.deaths_counted:
            fields["deaths_counted"] = str(transition.deaths_counted)
        if transition.limit:
            fields["limit"] = transition.limit
        if transition.error:
            fields["error"] = transition.error
        if transition.held:
            fields["held"] = to_json(transition.held).decode()
        self.operations += len(fields) - known

    def _add_node(self, index: NodeNumber, old: NodeState, new: NodeState) -> None:
        self._stored.setdefault(index, old)
        if new.settled != old.settled and self._asks_for_snapshot(index, old, new):
            self._keeping[index] = None
        self.operations += _NODE_FIELDS
        self.size += _NODE_SIZE
        for module in new.modules:
            if module.result is not None:
                self.size += len(module.result)

    def _asks_for_snapshot(self, index: NodeNumber, old: NodeState, new: NodeState) -> bool:
        """A node that was skipped changed nothing that is worth keeping."""
        node = self._plan.nodes[index]
        if node.snapshot is SnapshotControl.NEVER or new.settled_as is NodeStatus.SKIPPED:
            return False
        # What only decides starts and settles in one transition, a visit of modules started in an earlier one.
        return node.snapshot is SnapshotControl.ALWAYS or old.visits <= (0 if node.is_pure_flow else 1)

    def _add_state(self, run: Run, transition: Transition) -> None:
        revision = str(transition.revision)
        for key, text in transition.state.items():
            if (text is None) != (key not in run.state):
                self._fields["keys_revision"] = revision
            self._revisions[key] = revision
        self._state.update(transition.state)
        self._count(transition.state)

    def _add_map(self, index: NodeNumber, state: MapState | None, change: MapChange) -> None:
        writes = self._maps.get(index)
        if writes is None or change.opened is not None:
            stored = None if state is None else state.visit
            if writes is not None and writes.opened:
                stored = writes.replaced
            writes = self._maps[index] = _MapWrites(replaced=stored)
        fields = writes.fields
        if change.opened is not None:
            state = MapState(change.visit, len(change.opened))
            writes.opened = True
            writes.items = [] if change.borrowed else self._flat(change.opened)
            source = "open" if change.has_more else None
            fields.update(
                visit=str(change.visit),
                total=str(state.total),
                span=str(change.taken),
                source=source,
                borrowed=str(change.borrowed) if change.borrowed else None,
                failed="0",
                retried="0",
                crashes=None,
                active=None,
                median_ms=None,
                stragglers=None,
            )
        assert state is not None
        if change.has_more is not None and change.opened is None:
            writes.items += [] if state.borrowed else self._flat(change.added)
            fields["total"] = str(state.total + len(change.added))
            fields["span"] = str(change.span)
            fields["source"] = "open" if change.has_more else None
        if change.page is not None:
            page: Changes = {str(change.page.start): page_text(change.page)}
            writes.pages |= page
            self._count(page)
        fields["done"] = str(state.done + len(change.done))
        writes.done += self._flat(change.done)
        if change.failed:
            fields["failed"] = str(state.failed + len(change.failed))
            for item, failure, attempts in change.failed:
                writes.failed += self._flat([(item, failure_text(failure, attempts))])
        if change.crashes is not None:
            fields["crashes"] = crashes_text(change.crashes)
        if change.pace is not None:
            fields["active"] = str(change.pace.active)
            fields["median_ms"] = median_text(change.pace.median_seconds)
            fields["stragglers"] = stragglers_text(change.pace.stragglers)
        if change.retried:
            fields["retried"] = str(state.retried + change.retried)

    def _add_effects(self, run: Run, transition: Transition) -> None:
        effects = self._effects
        known_operations, known_size = effects.operations, effects.size
        if new := effects.add(run, transition):
            self._fields["mailboxes"] = mailboxes_text([*run.mailboxes, *new])
        self.operations += effects.operations - known_operations
        self.size += effects.size - known_size

    def _flat(self, records: Sequence[tuple[ItemNumber, str]]) -> list[Argument]:
        """Records as arguments, counted. One record costs a tenth of a microsecond, and there may be millions."""
        self.operations += len(records)
        self.size += sum(map(len, map(itemgetter(1), records))) + 8 * len(records)
        return cast("list[Argument]", [*chain.from_iterable(records)])

    def _count(self, changes: Changes) -> None:
        self.operations += len(changes)
        for name, text in changes.items():
            self.size += len(name) if text is None else len(name) + len(text)

    def _write_nodes(self, writes: WriteList, run: Run) -> None:
        statuses: Changes = {}
        changes: dict[str, Changes] = {}
        for index, old in self._stored.items():
            name, new = self._plan.nodes[index].name, run.nodes[index]
            if new.status is not old.status:
                statuses[name] = new.status.value
            changes[name] = node_changes(old, new, self._plan)
        writes.set_fields(self._keys.nodes, statuses)
        for name, fields in changes.items():
            writes.set_fields(self._keys.node(name), fields)

    def _write_map(self, writes: WriteList, name: str, records: _MapWrites) -> None:
        keys = self._keys
        if records.opened:
            self._clear_records(writes, name, records.replaced)
        writes.put_all("HSET", keys.map_in(name), records.items)
        writes.set_fields(keys.map(name), records.fields)
        writes.put_all("HSET", keys.map_out(name), records.done)
        writes.put_all("HSET", keys.map_failed(name), records.failed)
        writes.set_fields(keys.map_pages(name), records.pages)

    def _clear_records(self, writes: WriteList, name: str, visit: int | None) -> None:
        """Make room for a new visit's records: those of the one before go, or stay aside for a snapshot."""
        keys = self._keys
        if visit is None or not self._snapshots.name(name, visit):
            for key in keys.records(name):
                writes.put("UNLINK", key)
            return
        for key, aside in zip(keys.records(name), keys.records(name, visit), strict=True):
            writes.put_pair("RENAME", key, aside)

    def _progress(self, run: Run) -> str:
        """For people: how many nodes have settled, how many are active, how far the open maps are."""
        parts = [f"{self._tally.settled}/{len(run.nodes)} nodes", f"{run.active.bit_count()} active"]
        for index, state in run.maps.items():
            if state.unfinished and run.active >> index & 1:
                parts.append(f"{self._plan.nodes[index].name} {state.done + state.failed}/{state.total}")
        if run.waits:
            parts.append(
                f"waits for signal {', '.join(sorted({wait.signal for wait in run.waits.values()}))}"
            )
        return ", ".join(parts)
