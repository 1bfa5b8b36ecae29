"""How does a run that nobody drives end because somebody asked for it? Under its lease, in one commit, without its code."""

from __future__ import annotations

from graphflow.clock import now
from graphflow.entrance.driving import expire, setting_aside
from graphflow.entrance.leases import give_lease_back, take_lease
from graphflow.graph.tasks import RunStatus
from graphflow.ids import RunId
from graphflow.inputs import Crashed, Input, Stop
from graphflow.rules.advance import advance, apply
from graphflow.store.contract import Store

#: The lease is not renewed, and a run with many records takes a while to load.
LEASE_SECONDS = 60.0


async def cancel_undriven(store: Store, run_id: RunId, reason: str) -> None:
    """End the run as cancelled. LeaseHeld if a process drives it after all, RunOver, RunNotFound, CorruptState."""
    held = await take_lease(store, run_id, LEASE_SECONDS)
    try:
        async with setting_aside(store, run_id):
            plan = await store.plan(run_id)
            run = await held.load(plan)
        inputs: list[Input] = [Stop(RunStatus.CANCELLED, reason)]
        if run.deaths > run.deaths_counted and run.status is not RunStatus.WAITING:
            inputs.insert(0, Crashed())
        batch, expected = held.batch(plan), run.revision
        for each in inputs:
            transition = advance(plan, run, each, now(), 0.0)
            batch.add(run, transition)
            apply(run, transition, plan)
        await held.commit(batch, expected=expected, revision=run.revision)
        await expire(store, plan, run_id)
    finally:
        await give_lease_back(held)
