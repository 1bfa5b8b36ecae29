"""`graphflow signal`: sends a signal to a run. Whoever drives the run takes it; if nobody does, the run goes on here."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import typer

from graphflow.cli.drive import owner_text
from graphflow.cli.exits import Interrupted
from graphflow.cli.faces import Face
from graphflow.cli.loading import prefix_of
from graphflow.cli.resume import ResumeRequest, resume_run
from graphflow.cli.run import start_logging
from graphflow.cli.signals import Interruptions
from graphflow.cli.stored import Looker, looking_at, store_with_run
from graphflow.entrance import signalling
from graphflow.ids import RunId
from graphflow.server.address import Address
from graphflow.settings import DEFAULT_DRAIN_SECONDS
from graphflow.state.names import checked_name

#: Seconds between two looks at a run whose driver is to take the signal.
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class SignalRequest:
    """What `graphflow signal` was asked for; `reference` is a run id or `@last`, `value` JSON text."""

    reference: str
    name: str
    value: str
    #: Only store the signal.
    only_store: bool = False
    agent: str | None = None
    as_json: bool = False
    url: str | None = None
    verbose: bool = False
    #: Seconds that what runs gets to end after Ctrl-C or SIGTERM.
    grace: float = DEFAULT_DRAIN_SECONDS


def send_signal(request: SignalRequest) -> int:
    """Send it and go on with a run that nobody drives, to its next wait or its end; the exit code. RunNotFound, RunOver,
    InvalidSignal."""
    start_logging(verbose=request.verbose)
    value = _value_of(request.value)
    checked_name("signal", request.name)
    address, face = store_with_run(request.reference, request.url), Face(to_stderr=request.as_json)
    with Interruptions() as interruptions:
        try:
            run_id, is_taken = interruptions.run(
                _send(request, value, address, prefix_of(request.agent), face)
            )
        except Interrupted as interrupted:
            face.say("no longer waiting; a signal that was sent stands")
            raise typer.Exit(interrupted.exit_code) from None
    if is_taken or request.only_store:
        return 0
    return resume_run(
        ResumeRequest(
            run_id,
            request.agent,
            as_json=request.as_json,
            url=request.url,
            verbose=request.verbose,
            grace=request.grace,
        )
    )


def _value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no JSON: {error}; write a text as '\"yes\"', an object as '{{\"approved\": true}}'"
        ) from error


async def _send(
    request: SignalRequest, value: Any, address: Address, prefix: str | None, face: Face
) -> tuple[RunId, bool]:
    """The run, and whether somebody has taken the signal."""
    async with looking_at(address, prefix) as looker:
        head = await looker.head(request.reference)
        sent = await signalling.send_signal(looker.store, head.id, request.name, value)
        face.say(f"run {head.id}: signal {request.name} is stored")
        if sent.warning:
            face.say(sent.warning)
        return head.id, not request.only_store and await _is_taken(looker, head.id, face)


async def _is_taken(looker: Looker, run_id: RunId, face: Face) -> bool:
    """Wait until who drives the run has taken the signal; False if nobody drives it any more before that."""
    driver = await looker.driver(run_id)
    while driver:
        if not await looker.store.waiting_requests(run_id):
            face.say(f"{owner_text(driver)}, which drives the run, has taken it")
            return True
        await asyncio.sleep(LOOK_SECONDS)
        driver = await looker.driver(run_id)
    return False
