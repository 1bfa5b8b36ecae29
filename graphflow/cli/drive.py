"""Drives a run for a command: progress while it goes on, and what Ctrl-C and SIGTERM do to it.

The first signal drains: nothing more starts, what runs gets a while to end and be committed, the run is given back. The
second one ends the process at once; the run's lease is then taken over as after any death.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from graphflow.cli.exits import Interrupted
from graphflow.cli.faces import Face
from graphflow.cli.signals import Interruptions
from graphflow.errors import RunInterrupted, RunNotFound, StoreError
from graphflow.ids import RunId
from graphflow.server.owner import current_owner, owner_text

if TYPE_CHECKING:
    from graphflow.agent import Agent
    from graphflow.store.contract import RunHead, Store

T = TypeVar("T")

#: Seconds between two looks at the run's progress.
LOOK_SECONDS = 0.2


def drive(
    agent: Agent,
    start: Callable[[], Coroutine[Any, Any, T]],
    face: Face,
    *,
    go_on: str,
    grace: float,
    run_id: RunId | None = None,
) -> T:
    """What `start` comes to: a call of the agent that drives one run, or many if no `run_id` is given.

    Stopped by a signal it says how to go on, with the command line `go_on`, and raises typer.Exit with the exit code
    that shells expect. What runs then gets `grace` seconds to end.
    """
    with Interruptions(last_words=f"ended; go on with: {go_on}") as interruptions:

        def drain() -> None:
            face.say(f"stopping: what runs gets {grace:g} s to finish; the same signal again ends it at once")
            agent.drain(grace)

        async def run() -> T:
            with _saying_how_to_go_on(face, go_on):
                async with agent.cache.store() as store:
                    with face.progress() as show, interruptions.draining(drain):
                        return await _watched(start(), store, run_id, show)

        try:
            return interruptions.run(run())
        except Interrupted as interrupted:
            raise typer.Exit(interrupted.exit_code) from None


@contextlib.contextmanager
def _saying_how_to_go_on(face: Face, go_on: str) -> Iterator[None]:
    try:
        yield
    except (asyncio.CancelledError, RunInterrupted):
        face.say(f"stopped; go on with: {go_on}")
        raise
    except StoreError:
        face.say(f"stopped because of the store; go on with: {go_on}")
        raise


async def _watched(
    driving: Coroutine[Any, Any, T], store: Store, run_id: RunId | None, show: Callable[[str], None]
) -> T:
    if run_id is None:
        return await driving
    watching = asyncio.create_task(_watch(store, run_id, show), name="progress")
    try:
        return await driving
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(store: Store, run_id: RunId, show: Callable[[str], None]) -> None:
    while True:
        try:
            show(progress_of(await store.head(run_id)))
        except RunNotFound:
            show("starting")
        except StoreError:
            show("waiting for the store")
        await asyncio.sleep(LOOK_SECONDS)


def progress_of(head: RunHead) -> str:
    if head.owner and head.owner != current_owner():
        return f"{head.progress}, driven by {owner_text(head.owner)}"
    return head.progress
