"""`graphflow cancel`: ends a run. Whoever drives it is asked to; a run that nobody drives is ended here, without its code."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from graphflow.cli.exits import Interrupted
from graphflow.cli.faces import Face
from graphflow.cli.loading import prefix_of
from graphflow.cli.run import start_logging
from graphflow.cli.signals import Interruptions
from graphflow.cli.stored import Looker, looking_at, store_with_run
from graphflow.entrance.cancelling import cancel_undriven
from graphflow.errors import LeaseHeld, RunOver
from graphflow.requests import cancel_request
from graphflow.server.owner import owner_text

if TYPE_CHECKING:
    from graphflow.server.address import Address
    from graphflow.store.contract import RunHead

#: Seconds between two looks at a run that its driver is to end.
LOOK_SECONDS = 0.1


def cancel_run(reference: str, *, reason: str, agent: str | None, url: str | None) -> int:
    """The exit code, 0: the run is over. `agent` says what its keys begin with. RunNotFound, UnstorableValue."""
    start_logging(verbose=False)
    address, face = store_with_run(reference, url), Face()
    with Interruptions() as interruptions:
        try:
            interruptions.run(_cancel(reference, address, prefix_of(agent), reason, face))
        except Interrupted as interrupted:
            face.say("no longer waiting; a request that was made stands")
            raise typer.Exit(interrupted.exit_code) from None
    return 0


async def _cancel(reference: str, address: Address, prefix: str | None, reason: str, face: Face) -> None:
    request = cancel_request(reason)
    async with looking_at(address, prefix) as looker:
        head = await looker.head(reference)
        face.say(f"run {head.id}")
        if head.status.is_final:
            face.status("status", head.status.value, ", it was over already")
            return
        while not head.status.is_final:
            if driver := await looker.driver(head.id):
                face.say(f"asking {owner_text(driver)}, which drives it, to end it")
                await looker.store.post(head.id, request)
                await _wait(looker, head, driver)
            else:
                try:
                    await cancel_undriven(looker.store, head.id, reason)
                except (LeaseHeld, RunOver):
                    # Who has taken it meanwhile is asked at the next look.
                    await asyncio.sleep(LOOK_SECONDS)
            head = await looker.store.head(head.id)
    face.status("status", head.status.value, f", {head.error}" if head.error else "")


async def _wait(looker: Looker, head: RunHead, driver: str) -> None:
    """Until the run is over, or has another driver or none."""
    asked = driver
    while driver == asked and not head.status.is_final:
        await asyncio.sleep(LOOK_SECONDS)
        driver = await looker.driver(head.id)
        # After the driver: a run that ends has no driver any more.
        head = await looker.store.head(head.id)
