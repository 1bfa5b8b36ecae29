"""`graphflow retry`: a new run that goes on from where another was, with what had failed tried again."""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphflow.cli.drive import drive
from graphflow.cli.faces import Face
from graphflow.cli.loading import load_agent_of, prefix_of, use_store_of
from graphflow.cli.redis_lines import lines_for_look
from graphflow.cli.resume import find_run
from graphflow.cli.run import report, resume_command, start_logging
from graphflow.cli.stored import LATEST, store_with_run
from graphflow.clock import now
from graphflow.errors import RunComplete
from graphflow.graph.tasks import RunStatus
from graphflow.ids import check_run_id, new_run_id
from graphflow.settings import DEFAULT_DRAIN_SECONDS
from graphflow.store.keys import StoreKeys

if TYPE_CHECKING:
    from graphflow.result import RunResult
    from graphflow.server.address import Address
    from graphflow.store.contract import RunHead


@dataclass(frozen=True, slots=True)
class RetryRequest:
    """What `graphflow retry` was asked for; `reference` is a run id or `@last`."""

    reference: str
    #: Number of the snapshot to go back to; None for the run's end.
    at: int | None = None
    run_id: str | None = None
    agent: str | None = None
    as_json: bool = False
    url: str | None = None
    verbose: bool = False
    #: Seconds that what runs gets to end after a signal.
    grace: float = DEFAULT_DRAIN_SECONDS


def retry_run(request: RetryRequest) -> int:
    """Fork the run, show what the fork came to, and return the exit code. RunNotFound, SnapshotNotFound, RunComplete."""
    start_logging(verbose=request.verbose)
    address = store_with_run(request.reference, request.url)
    head, prefix = asyncio.run(find_run(request.reference, address, prefix_of(request.agent)))
    return report(
        lambda face: _retry(request, head, address, prefix, face),
        as_json=request.as_json,
        verbose=request.verbose,
    )


def _retry(request: RetryRequest, head: RunHead, address: Address, prefix: str, face: Face) -> RunResult:
    if request.at is None and head.status is RunStatus.COMPLETE:
        raise RunComplete(head.id)
    agent = load_agent_of(head, request.agent, address, command=f"graphflow retry {head.id}")
    use_store_of(agent, address, prefix)
    own_id = (
        check_run_id(request.run_id)
        if request.run_id
        else new_run_id(agent.name, int(now()), random.Random())
    )
    face.say(f"run {own_id}")
    face.say(f"goes on from run {head.id}" + ("" if request.at is None else f", snapshot {request.at}"))
    for line in lines_for_look(address, StoreKeys(prefix), own_id):
        face.say(line)
    # By then the latest run is the new one.
    words = [head.id if word == LATEST else word for word in sys.argv[1:]]
    return drive(
        agent,
        lambda: agent.fork(head.id, request.at, run_id=own_id),
        face,
        go_on=resume_command(words, own_id),
        grace=request.grace,
        run_id=own_id,
    )
