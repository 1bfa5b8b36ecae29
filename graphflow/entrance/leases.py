"""How is the lease of a run taken and given back? To the end, although who asks for it is cancelled meanwhile.

A lease that nobody knows of would keep everybody from the run until it ends, and then count as a death.
"""

from __future__ import annotations

import asyncio
import logging

from graphflow.engine.cancellation import finish_despite_cancelling
from graphflow.errors import StoreError
from graphflow.ids import RunId
from graphflow.store.contract import HeldRun, Store

logger = logging.getLogger(__name__)

#: Seconds that giving a lease back may take.
RELEASE_SECONDS = 2.0


async def take_lease(store: Store, run_id: RunId, seconds: float) -> HeldRun:
    """LeaseHeld, RunOver, RunNotFound."""
    taking = asyncio.ensure_future(store.acquire(run_id, seconds))
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        await finish_despite_cancelling(_give_back_if_taken(taking))
        raise


async def give_lease_back(held: HeldRun) -> None:
    """If the store does not answer, the lease expires by itself."""
    await finish_despite_cancelling(_release(held))


async def _give_back_if_taken(taking: asyncio.Future[HeldRun]) -> None:
    done, _ = await asyncio.wait([taking], timeout=RELEASE_SECONDS)
    if not done:
        taking.cancel()
        await asyncio.wait([taking])
    if not taking.cancelled() and taking.exception() is None:
        await _release(taking.result())


async def _release(held: HeldRun) -> None:
    try:
        async with asyncio.timeout(RELEASE_SECONDS):
            await held.release()
    except (StoreError, TimeoutError) as error:
        logger.warning(
            "run %s: lease not given back: %s", held.lease.run_id, str(error) or "the store does not answer"
        )
