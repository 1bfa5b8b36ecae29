"""`graphflow resume` and `graphflow run --recover`: going on with one interrupted run, or with all of an agent."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from graphflow.cli.drive import drive
from graphflow.cli.faces import Face
from graphflow.cli.loading import load_agent, load_agent_of, prefix_of, use_store_of
from graphflow.cli.redis_lines import lines_for_look
from graphflow.cli.run import (
    RunRequest,
    exit_code_of,
    outcome_fields,
    report,
    same_command,
    start_logging,
    stdout_for_outcome,
    use_store,
)
from graphflow.cli.stored import looking_at, store_with_run
from graphflow.errors import GraphflowError
from graphflow.settings import DEFAULT_DRAIN_SECONDS
from graphflow.store.keys import StoreKeys
from graphflow.store.opening import is_there

if TYPE_CHECKING:
    from graphflow.agent import Agent
    from graphflow.ids import RunId
    from graphflow.result import RunResult
    from graphflow.server.address import Address
    from graphflow.store.contract import RunHead


@dataclass(frozen=True, slots=True)
class ResumeRequest:
    """What `graphflow resume` was asked for; `reference` is a run id or `@last`."""

    reference: str
    agent: str | None = None
    accept_changes: bool = False
    as_json: bool = False
    url: str | None = None
    verbose: bool = False
    #: Seconds that what runs gets to end after a signal.
    grace: float = DEFAULT_DRAIN_SECONDS


def resume_run(request: ResumeRequest) -> int:
    """Go on with the run, show what it came to, and return the exit code. RunNotFound, PlanMismatch."""
    start_logging(verbose=request.verbose)
    address = store_with_run(request.reference, request.url)
    head, prefix = asyncio.run(find_run(request.reference, address, prefix_of(request.agent)))
    return report(
        lambda face: _resume(request, head, address, prefix, face),
        as_json=request.as_json,
        verbose=request.verbose,
    )


async def find_run(reference: str, address: Address, prefix: str | None = None) -> tuple[RunHead, str]:
    """The run, and the prefix of its keys: the one given, else the setting. RunNotFound."""
    async with looking_at(address, prefix) as looker:
        return await looker.head(reference), looker.keys.prefix


def _resume(request: ResumeRequest, head: RunHead, address: Address, prefix: str, face: Face) -> RunResult:
    agent = load_agent_of(head, request.agent, address, command=f"graphflow resume {head.id}")
    use_store_of(agent, address, prefix)
    face.say(f"run {head.id}")
    for line in lines_for_look(address, StoreKeys(prefix), head.id):
        face.say(line)
    return drive(
        agent,
        lambda: agent.resume(head.id, accept_changes=request.accept_changes),
        face,
        go_on=same_command(sys.argv[1:], head.id),
        grace=request.grace,
        run_id=head.id,
    )


# All runs of an agent


def recover_runs(request: RunRequest) -> int:
    """Resume every interrupted run of the agent. The exit code: 2 if some run cannot be resumed, 1 if some failed or are
    partial, 4 if some wait for signals."""
    start_logging(verbose=request.verbose)
    if request.run_id is not None or request.params or request.params_file is not None:
        raise typer.BadParameter(
            "--recover goes on with runs that have their ids and parameters; leave out --id, --param and --params"
        )
    face = Face(to_stderr=request.as_json, live=not request.verbose)
    with stdout_for_outcome() if request.as_json else nullcontext() as print_outcome:
        agent = load_agent(request.reference)
        if request.url is not None:
            use_store(agent, request.url)
        refused: dict[RunId, GraphflowError] = {}
        outcomes = _recover(agent, refused, face, request.grace)
        _show(agent, outcomes, refused, face)
        if print_outcome is not None:
            print_outcome(_json(outcomes, refused))
    codes = {exit_code_of(outcome) for outcome in outcomes}
    return 2 if refused else 1 if 1 in codes else max(codes, default=0)


def _recover(agent: Agent, refused: dict[RunId, GraphflowError], face: Face, grace: float) -> list[RunResult]:
    if not is_there(agent.cache.address):
        return []
    return drive(
        agent,
        lambda: agent.recover(refused=refused.__setitem__),
        face,
        go_on=same_command(sys.argv[1:]),
        grace=grace,
    )


def _show(agent: Agent, outcomes: list[RunResult], refused: dict[RunId, GraphflowError], face: Face) -> None:
    if not outcomes and not refused:
        face.say(f"no interrupted runs of agent {agent.name} in {agent.cache.address.masked}")
    if outcomes:
        rows = [
            [outcome.run_id, outcome.status.value, f"{outcome.seconds:.2f}", outcome.error or ""]
            for outcome in outcomes
        ]
        face.table(["RUN", "STATUS", "SECONDS", "ERROR"], rows, numbers=["SECONDS"])
    for error in refused.values():
        face.say(f"refused: {error}")


def _json(outcomes: list[RunResult], refused: dict[RunId, GraphflowError]) -> str:
    return json.dumps(
        {
            "runs": [outcome_fields(outcome) for outcome in outcomes],
            "refused": {run_id: str(error) for run_id, error in refused.items()},
        },
        ensure_ascii=False,
    )
