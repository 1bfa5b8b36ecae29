"""How is a run read whole, as it is or as a snapshot kept it, and how is one written that begins so?

Keys of two runs may lie on two servers of a cluster, so what one run takes from another passes through this process.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from graphflow.errors import RunNotFound, SnapshotNotFound
from graphflow.graph.tasks import RunStatus
from graphflow.ids import ItemNumber, NodeNumber, RunId, enumerate_nodes, item_number
from graphflow.planning.plan import Plan, bits, lender_of
from graphflow.run import MapState, Message, NodeState, NodeStatus, Run
from graphflow.store.contract import MapRecords, RunContent
from graphflow.store.effects import EffectWrites, load_effects, mailboxes_text
from graphflow.store.fields import Changes, end_text, node_changes, task_fields
from graphflow.store.keys import RunKeys
from graphflow.store.loading import Fields, StoredRun, marked, run_from, understood
from graphflow.store.records import read_result_pages, read_unfinished
from graphflow.store.replan import graph_from
from graphflow.store.snapshots import StoredSnapshot, read_snapshots
from graphflow.store.write_list import WriteList
from graphflow.store.writes import SETTLED
from graphflow.transition import Transition
from graphflow.values import value_digest

if TYPE_CHECKING:
    from graphflow.store.patient_client import PatientClient


async def read_stored(
    redis: PatientClient, keys: RunKeys, plan: Plan, *, has_begun: bool = True
) -> StoredRun:
    """The hashes of a run, or of a snapshot under its keys. Before a run's first outcome its nodes and maps have none, and
    no state key has an end."""
    maps = [node.index for node in plan.nodes if node.map is not None]
    wanted = [keys.run, keys.task, keys.state, keys.revisions, keys.nodes]
    if has_begun:
        wanted.append(keys.expiring)
        wanted += (keys.node(node.name) for node in plan.nodes)
        wanted += (keys.map(plan.nodes[index].name) for index in maps)
    run, task, state, revisions, statuses, *rest = await redis.hashes(wanted)
    if not has_begun:
        rest = [{}] * (1 + len(plan.nodes) + len(maps))
    expiring, nodes, map_hashes = rest[0], rest[1 : 1 + len(plan.nodes)], rest[1 + len(plan.nodes) :]
    return StoredRun(
        run,
        task,
        state,
        revisions,
        expiring,
        statuses,
        dict(enumerate_nodes(nodes)),
        dict(zip(maps, map_hashes, strict=True)),
    )


async def read_run(
    redis: PatientClient, store: str, run_id: RunId, keys: RunKeys, plan: Plan, *, has_begun: bool = True
) -> tuple[Run, Fields]:
    """The run as it was last committed, for who drives it or looks at it once it is over, with the fields of its hash.

    RunNotFound, PlanMismatch.
    """
    stored = await read_stored(redis, keys, plan, has_begun=has_begun)
    if not stored.run:
        raise RunNotFound(run_id, store)
    run = run_from(run_id, keys, stored, plan)
    if not run.status.is_final or "mailboxes" in stored.run:
        await load_effects(redis, keys, plan, run, stored.run)
    for index, state in run.maps.items():
        name = plan.nodes[index].name
        if state.done + state.failed < state.total:
            lender = lender_of(plan.nodes[index], state.borrowed)
            state.unfinished = await read_unfinished(redis, keys, name, lender, stored.maps[index])
        if plan.nodes[index].streams_to:
            names = await redis.field_names(keys.map_out(name))
            state.recorded = marked(keys.map_out(name), state.span, names)
    for index in bits(plan.maps_in_expressions):
        current = run.maps.get(index)
        if current is None or current.unfinished:
            continue
        if run.nodes[index].settled_as is NodeStatus.SUCCEEDED:
            pages = read_result_pages(redis, keys, plan.nodes[index].name, 0, None)
            run.map_results[index] = f"[{','.join([text async for page in pages for _, text in page])}]"
    return run, stored.run


async def read_graph(redis: PatientClient, keys: RunKeys) -> dict[str, dict[str, Any]]:
    """The nodes of the graph that the run goes by, as plain data by name."""
    return graph_from(keys.plan, await redis.command(lambda client: client.get(keys.plan), keys.plan))


async def read_content(
    redis: PatientClient, store: str, run_id: RunId, keys: RunKeys, plan: Plan, at: int | None
) -> RunContent:
    """The run as it is, which nobody must be driving meanwhile, or as snapshot `at` kept it.

    RunNotFound, PlanMismatch, SnapshotNotFound.
    """
    if at is None:
        stored = await read_stored(redis, keys, plan)
        if not stored.run:
            raise RunNotFound(run_id, store)
        run = run_from(run_id, keys, stored, plan)
        await load_effects(redis, keys, plan, run, stored.run)
        return await _with_records(redis, keys, plan, run, None)
    while True:
        snapshot = await _snapshot(redis, run_id, keys, at)
        copied = await read_stored(redis, keys.snapshot(at), plan)
        own, copied.task = await redis.hashes([keys.run, keys.task])
        if not own:
            raise RunNotFound(run_id, store)
        if not copied.run:
            continue  # dropped since it was looked up: the next look says so
        copied.run = {**copied.run, "task": own["task"], "status": RunStatus.EXECUTING.value}
        run = run_from(run_id, keys, copied, plan)
        await load_effects(redis, keys.snapshot(at), plan, run, copied.run)
        places = await _visits(redis, keys, plan, run)
        content = await _with_records(redis, keys, plan, run, snapshot, places)
        # Whoever drives the run may have opened another visit meanwhile, or dropped the snapshot.
        if places == await _visits(redis, keys, plan, run):
            await _snapshot(redis, run_id, keys, at)
            return content


async def _snapshot(redis: PatientClient, run_id: RunId, keys: RunKeys, number: int) -> StoredSnapshot:
    found = {each.snapshot.number: each for each in await read_snapshots(redis, keys)}
    if number not in found:
        raise SnapshotNotFound(run_id, number, list(found))
    return found[number]


async def _visits(redis: PatientClient, keys: RunKeys, plan: Plan, run: Run) -> dict[NodeNumber, int]:
    """The visits whose records have the plain keys, by map node."""
    found = [keys.map(plan.nodes[index].name) for index in run.maps]
    visits = [
        understood(key, partial(int, fields.get("visit", 0)))
        for key, fields in zip(found, await redis.hashes(found), strict=True)
    ]
    return dict(zip(run.maps, visits, strict=True))


async def _with_records(
    redis: PatientClient,
    keys: RunKeys,
    plan: Plan,
    run: Run,
    snapshot: StoredSnapshot | None,
    places: dict[NodeNumber, int] | None = None,
) -> RunContent:
    records: dict[NodeNumber, MapRecords] = {}
    for index, state in run.maps.items():
        name = plan.nodes[index].name
        is_aside = places is not None and places[index] != state.visit
        record_keys = [*keys.records(name, state.visit if is_aside else None)]
        hashes = await redis.hashes(record_keys)
        later = snapshot.unfinished(name) if snapshot is not None else set()
        items, results, failures, pages = (
            understood(key, partial(_texts, fields, state.span))
            for key, fields in zip(record_keys, hashes, strict=True)
        )
        if state.borrowed:
            items = _borrowed_items(plan, run, records, index)
        records[index] = MapRecords(items, _without(results, later), _without(failures, later), pages)
        state.unfinished = {
            item_number(item) for item in items.keys() - results.keys() - failures.keys()
        } | later
    for index in bits(plan.maps_in_expressions):
        if index in records and run.nodes[index].settled_as is NodeStatus.SUCCEEDED:
            results = records[index].results
            run.map_results[index] = f"[{','.join(results[item] for item in sorted(results, key=int))}]"
    return RunContent(run, records, run.id, None if snapshot is None else snapshot.snapshot.number)


def _borrowed_items(
    plan: Plan, run: Run, records: dict[NodeNumber, MapRecords], index: NodeNumber
) -> dict[str, str]:
    """The results of the map that this one goes through; none if that is in another visit by now."""
    source, state = plan.nodes[index].map, run.maps[index]
    lender = None if source is None else source.source_node
    if lender is None or lender not in records or run.maps[lender].visit != state.borrowed:
        return {}
    return _texts(records[lender].results, state.span)


def _texts(fields: Fields, span: int) -> dict[str, str]:
    """The records of the elements that were taken from the source by then."""
    return {index: text for index, text in fields.items() if int(index) < span}


def _without(fields: dict[str, str], indexes: Iterable[ItemNumber]) -> dict[str, str]:
    """What was recorded after the snapshot is no part of it."""
    for index in indexes:
        fields.pop(str(index), None)
    return fields


def creation(content: RunContent, plan: Plan, keys: RunKeys, origin: Changes) -> WriteList:
    """The list for `create.lua`: a run that has not begun, with all that it begins with."""
    run = content.run
    fields: Changes = {
        **origin,
        "status": run.status.value,
        "task": run.task.type,
        "plan_hash": plan.hash,
        "revision": str(run.revision),
        "progress": _progress(run),
    }
    if run.keys_revision:
        fields["keys_revision"] = str(run.keys_revision)
    if run.mailboxes:
        fields["mailboxes"] = mailboxes_text(list(run.mailboxes))
    if content.parent:
        fields["parent"] = content.parent
    else:
        fields["initial"] = str(len(run.state))
    if content.snapshot is not None:
        fields["parent_snapshot"] = str(content.snapshot)
    writes = WriteList(keys.run)
    writes.set_fields(keys.run, fields)
    for key in (keys.plan, keys.state, keys.revisions, keys.nodes, keys.events, keys.inbox, keys.lease):
        writes.put("UNLINK", key)
    for key in (keys.task, keys.initial, keys.expiring, keys.steps, keys.waits, keys.signals):
        writes.put("UNLINK", key)
    writes.set_fields(keys.task, task_fields(run.task))
    writes.put("SET", keys.plan, [plan.json])
    if not content.parent:
        writes.set_fields(keys.initial, {key: value_digest(text) for key, text in run.state.items()})
    writes.set_fields(keys.state, dict(run.state))
    writes.set_fields(keys.revisions, {key: str(number) for key, number in run.revisions.items() if number})
    writes.set_fields(keys.expiring, {key: end_text(end) for key, end in run.expiring.items()})
    writes.set_fields(keys.nodes, {node.name: run.nodes[node.index].status.value for node in plan.nodes})
    if run.revision:
        untouched = NodeState()
        for node in plan.nodes:
            writes.set_fields(keys.node(node.name), node_changes(untouched, run.nodes[node.index], plan))
    _put_effects(writes, keys, plan, run)
    for index, records in content.records.items():
        name = plan.nodes[index].name
        writes.set_fields(keys.map(name), _map_fields(run.maps[index], records))
        items = {} if run.maps[index].borrowed else records.items
        texts = (items, records.results, records.failures, records.pages)
        for key, fields_of_key in zip(keys.records(name), texts, strict=True):
            writes.set_fields(key, dict(fields_of_key))
    return writes


def _put_effects(writes: WriteList, keys: RunKeys, plan: Plan, run: Run) -> None:
    """What modules remember, wait for and have sent, as one transition would have brought all of it about."""
    messages = [Message(mailbox, text) for mailbox, texts in run.mailboxes.items() for text in texts]
    transition = Transition(run.revision, run.active, run.fresh, run.iterations, sent=messages)
    transition.steps |= {place: {**fields} for place, fields in run.steps.items()}
    transition.waits |= run.waits
    transition.signals |= run.signals
    effects = EffectWrites(plan)
    effects.add(run, transition)
    effects.put(writes, keys)


def _map_fields(state: MapState, records: MapRecords) -> Changes:
    return {
        "visit": str(state.visit),
        "total": str(state.total),
        "span": str(state.span),
        "source": "open" if state.has_more else None,
        "borrowed": str(state.borrowed) if state.borrowed else None,
        "done": str(state.done),
        "failed": str(state.failed),
        "retried": str(state.retried),
    }


def _progress(run: Run) -> str:
    settled = sum(state.status in SETTLED for state in run.nodes)
    return f"{settled}/{len(run.nodes)} nodes, {run.active.bit_count()} active"
