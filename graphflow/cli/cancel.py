"""`graphflow cancel`: ends a run. Whoever drives it is asked to; a run that nobody drives is taken over for its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from graphflow.cli.drive import owner_text
from graphflow.cli.faces import Face
from graphflow.cli.loading import load_agent_of, prefix_of, use_store_of
from graphflow.cli.run import start_logging
from graphflow.cli.signals import Interrupted, Interruptions
from graphflow.cli.stored import Looker, looking_at, store_with_run
from graphflow.errors import PlanMismatch
from graphflow.requests import cancel_request

if TYPE_CHECKING:
    from graphflow.graph.tasks import RunStatus
    from graphflow.store.address import Address
    from graphflow.store.contract import RunHead

#: Seconds between two looks at a run that its driver is to end.
LOOK_SECONDS = 0.1


def cancel_run(reference: str, *, reason: str, agent: str | None, url: str | None) -> int:
    """The exit code: 0 if the run is over, 1 if the request is stored and nobody is there to carry it out. RunNotFound."""
    start_logging(verbose=False)
    address, face = store_with_run(reference, url), Face()
    with Interruptions() as interruptions:
        try:
            head, prefix = interruptions.run(_ask_driver(reference, address, prefix_of(agent), reason, face))
            if head.status.is_final:
                return 0
            return _end_here(interruptions, head, address, prefix, reason, agent, face)
        except Interrupted as interrupted:
            face.say("no longer waiting; a request that was made stands")
            raise typer.Exit(interrupted.exit_code) from None


async def _ask_driver(
    reference: str, address: Address, prefix: str | None, reason: str, face: Face
) -> tuple[RunHead, str]:
    """The run when it is over, or when nobody drives it; and the prefix of its keys."""
    async with looking_at(address, prefix) as looker:
        head = await looker.head(reference)
        face.say(f"run {head.id}")
        if head.status.is_final:
            face.status("status", head.status.value, ", it was over already")
        elif driver := await looker.driver(head.id):
            face.say(f"asking {owner_text(driver)}, which drives it, to end it")
            await looker.store.post(head.id, cancel_request(reason))
            head = await _wait(looker, head, driver)
            if head.status.is_final:
                _show_end(head.status, head.error, face)
        return head, looker.keys.prefix


async def _wait(looker: Looker, head: RunHead, driver: str) -> RunHead:
    while driver and not head.status.is_final:
        await asyncio.sleep(LOOK_SECONDS)
        driver = await looker.driver(head.id)
        # After the driver: a run that ends has no driver any more.
        head = await looker.store.head(head.id)
    return head


def _end_here(
    interruptions: Interruptions,
    head: RunHead,
    address: Address,
    prefix: str,
    reason: str,
    reference: str | None,
    face: Face,
) -> int:
    try:
        agent = load_agent_of(head, reference, address, command=f"graphflow cancel {head.id}")
        use_store_of(agent, address, prefix)
        status = interruptions.run(agent.cancel(head.id, reason))
    except (typer.BadParameter, PlanMismatch) as error:
        if interruptions.run(_post(head, address, prefix, reason)):
            why = error.message if isinstance(error, typer.BadParameter) else str(error)
            face.say(
                "nobody drives it; the request is stored, and whoever goes on with the run ends it first"
            )
            face.say(f"it was not ended here: {why}")
            return 1
        return 0
    _show_end(status, f"cancelled: {reason}" if status.value == "cancelled" else "", face)
    return 0


async def _post(head: RunHead, address: Address, prefix: str, reason: str) -> bool:
    async with looking_at(address, prefix) as looker:
        return await looker.store.post(head.id, cancel_request(reason))


def _show_end(status: RunStatus, error: str, face: Face) -> None:
    face.status("status", status.value, f", {error}" if error else "")
