"""How does a run go on from where another was? With its content, and what had failed open again, under an id of its own.

The fork is then driven like any run. The run that it comes from stays as it is.
"""

from __future__ import annotations

import logging

from graphflow.clock import now
from graphflow.entrance.entering import Entrance
from graphflow.entrance.leases import give_lease_back, take_lease
from graphflow.errors import RunComplete, RunExists, RunNotFound, RunOver
from graphflow.graph.tasks import RunStatus
from graphflow.ids import RunId, item_number
from graphflow.planning.plan import Plan
from graphflow.rules.reopen import reopen
from graphflow.store.contract import RunContent, RunHead, Store

logger = logging.getLogger(__name__)


async def enter_fork(entrance: Entrance, parent: RunHead, at: int | None, own_id: RunId | None) -> RunHead:
    """The fork of `parent` at its last state, or at snapshot `at`: a new run, or the one of `own_id` if it is that fork.

    RunComplete, SnapshotNotFound, PlanMismatch; RunExists if `own_id` is another run, AgentMismatch if it is the fork of
    another agent; LeaseHeld if the last state is asked for while a process drives the run.
    """
    store = entrance.session.store
    if own_id is not None and (known := await _known_fork(store, own_id, parent.id, at)):
        entrance.terms.check_owner(known)
        return known
    content = await _content(store, entrance.plan, parent, at, entrance.terms.lease_seconds)
    while True:
        content.run.id = own_id or entrance.new_id(parent.task)
        try:
            await entrance.create(content)
        except RunExists:
            if own_id is None:
                continue
        else:
            logger.info("run %s goes on from %s; agent.resume resumes it", content.run.id, parent.id)
        if known := await _known_fork(store, content.run.id, parent.id, at):
            return known


async def _known_fork(store: Store, run_id: RunId, parent: RunId, at: int | None) -> RunHead | None:
    try:
        head = await store.head(run_id)
    except RunNotFound:
        return None
    if (head.parent, head.snapshot) != (parent, at):
        raise RunExists(run_id)
    return head


async def _content(
    store: Store, plan: Plan, parent: RunHead, at: int | None, lease_seconds: float
) -> RunContent:
    if at is not None:
        content = await store.content(parent.id, plan, at)
    else:
        content = await _last_content(store, plan, parent, lease_seconds)
    _reopen(plan, content)
    return content


async def _last_content(store: Store, plan: Plan, parent: RunHead, lease_seconds: float) -> RunContent:
    """Of a run that is not over under its lease, so that it does not change while it is read."""
    if parent.status is RunStatus.COMPLETE:
        raise RunComplete(parent.id)
    if parent.status.is_final:
        return await store.content(parent.id, plan)
    try:
        held = await take_lease(store, parent.id, lease_seconds)
    except RunOver:
        return await _last_content(store, plan, await store.head(parent.id), lease_seconds)
    try:
        return await store.content(parent.id, plan)
    finally:
        await give_lease_back(held)


def _reopen(plan: Plan, content: RunContent) -> None:
    unrecorded = {
        index: set(map(item_number, records.items.keys() - records.results.keys()))
        for index, records in content.records.items()
    }
    reopen(plan, content.run, unrecorded, now())
    for index, records in content.records.items():
        if not content.run.maps[index].failed:
            records.failures.clear()
