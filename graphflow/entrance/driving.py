"""How a run is entered, whether it is new or was interrupted: take the lease, load, drive, give the lease back.

Nothing is executed here. A run whose process died is loaded like any other; what it had in flight is ready again and
goes through the entrance that first-time work uses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from graphflow.entrance.leases import give_lease_back, take_lease
from graphflow.entrance.session import Session
from graphflow.errors import (
    CorruptState,
    LeaseHeld,
    LeaseLost,
    PlanMismatch,
    RunInterrupted,
    RunOver,
    StoreError,
    StoreUnreachable,
    StoreWentBack,
)
from graphflow.executors.table import open_executors
from graphflow.graph.tasks import RunStatus
from graphflow.ids import RunId
from graphflow.planning.differences import described_nodes, differences
from graphflow.planning.plan import Plan
from graphflow.run import Run
from graphflow.server.owner import owner_text
from graphflow.settings import DEFAULT_DRAIN_SECONDS
from graphflow.store.contract import HeldRun, RunHead, Store

logger = logging.getLogger(__name__)

#: Seconds between two looks at a run that another process drives.
POLL_SECONDS = 0.25
#: Seconds after which who waits for that says for whom, and then from time to time.
SILENT_SECONDS = 1.0
SAY_SECONDS = 10.0


async def finish_run(
    session: Session,
    plan: Plan,
    run_id: RunId,
    *,
    lease_seconds: float,
    stall_seconds: float,
    on_commit: Callable[[], None] = lambda: None,
    waits: bool = True,
) -> Run:
    """The run when it is over, or only waits for signals: driven here, or by the process that holds its lease.

    RunInterrupted if the session is drained before that; unless it `waits`, LeaseHeld if another process drives it.
    """
    waiting = _Waiting(run_id)
    while session.draining is None:
        try:
            held = await take_lease(session.store, run_id, lease_seconds)
        except LeaseHeld as other:
            if not waits:
                raise
            waiting.say(other.owner)
            run = await _wait_for_other(session.store, plan, run_id, other)
        except RunOver:
            run = await _over(session.store, plan, run_id)
        else:
            waiting = _Waiting(run_id)
            run = await _drive(session, plan, held, stall_seconds, on_commit)
            run = run or await _over(session.store, plan, run_id)
        if run is not None:
            return run
    raise RunInterrupted(run_id)


class _Waiting:
    """Says for whom a call waits, and for how long it has."""

    def __init__(self, run_id: RunId) -> None:
        self._run_id = run_id
        self._loop = asyncio.get_running_loop()
        self._began: float | None = None
        self._next = SILENT_SECONDS

    def say(self, owner: str) -> None:
        """If it is time to; to be called at each look."""
        now = self._loop.time()
        self._began = now if self._began is None else self._began
        if now - self._began < self._next:
            return
        self._next += SAY_SECONDS
        logger.info(
            "run %s is driven by %s; waiting for it, %.0f s so far",
            self._run_id,
            owner_text(owner),
            now - self._began,
        )


async def check_plan(store: Store, plan: Plan, head: RunHead) -> None:
    """PlanMismatch, with the differences, if the run was started with another graph."""
    if head.plan_hash == plan.hash:
        return
    changes = differences(await store.graph(head.id), described_nodes(plan.json))
    raise PlanMismatch(head.id, head.plan_hash, plan.hash, changes)


async def replan(session: Session, plan: Plan, run_id: RunId, *, lease_seconds: float) -> None:
    """Make `plan` the graph of a run that nobody drives; one that is over keeps its own. LeaseHeld; PlanMismatch with its
    obstacles."""
    try:
        held = await take_lease(session.store, run_id, lease_seconds)
    except RunOver:
        return
    try:
        await held.replan(plan)
    finally:
        await give_lease_back(held)


async def _wait_for_other(store: Store, plan: Plan, run_id: RunId, other: LeaseHeld) -> Run | None:
    """The run if it is over, or None when it is time to try for its lease again."""
    await asyncio.sleep(min(POLL_SECONDS, max(0.02, other.seconds_left)))
    return await _over(store, plan, run_id)


async def _over(store: Store, plan: Plan, run_id: RunId) -> Run | None:
    """The run if it is over; a lease is not taken for that."""
    head = await store.head(run_id)
    return await store.load(run_id, plan) if head.status.is_final else None


@asynccontextmanager
async def setting_aside(store: Store, run_id: RunId) -> AsyncIterator[None]:
    """A run that turns out not to be readable inside is put into quarantine, and the CorruptState raised."""
    try:
        yield
    except CorruptState as error:
        await store.quarantine(run_id, error)
        raise


async def _drive(
    session: Session, plan: Plan, held: HeldRun, stall_seconds: float, on_commit: Callable[[], None]
) -> Run | None:
    """The run when it is over; None if it was given back, taken over, or the store lost what it had acknowledged."""
    # A sixth of the package's import time, which whoever only defines an agent does not need.
    from graphflow.engine.scheduler import Scheduler

    answers = True
    try:
        run = await held.load(plan)
        if not run.status.is_final:
            names = {node.config.executor for node in plan.nodes}
            with open_executors(names, on_end=partial(session.drain, DEFAULT_DRAIN_SECONDS)) as executors:
                scheduler = Scheduler(
                    plan,
                    run,
                    session.store,
                    held,
                    executors,
                    stall_seconds=stall_seconds,
                    on_commit=on_commit,
                )
                session.drains.add(scheduler.drain)
                try:
                    if session.draining is not None:
                        # Since the lease was asked for.
                        scheduler.drain(session.draining)
                    await scheduler.drive(session.heartbeat)
                finally:
                    session.drains.discard(scheduler.drain)
        if run.status is RunStatus.SUSPENDED:
            return run
        if not run.status.is_final:
            return None
        await expire(session.store, plan, run.id)
        return run
    except CorruptState as error:
        await session.store.quarantine(held.lease.run_id, error)
        raise
    except (LeaseLost, StoreWentBack) as error:
        logger.warning("%s", error)
        return None
    except StoreUnreachable:
        answers = False
        raise
    finally:
        if answers:
            await give_lease_back(held)


async def expire(store: Store, plan: Plan, run_id: RunId) -> None:
    """Give what is stored of a run that is over the time of its end; if that does not come about, `gc` does it."""
    try:
        await store.expire(run_id, plan)
    except StoreError as error:
        logger.warning("run %s: not given an end, `graphflow gc` does it: %s", run_id, error)
