"""`graphflow run`: runs the agent of a file with a live progress line, and shows what the run came to."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shlex
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from graphflow.cli.drive import drive
from graphflow.cli.faces import FAILURES_SHOWN, Face, NodeRow, items_text, plain, value_text
from graphflow.cli.frames import last_user_frame
from graphflow.cli.loading import load_agent
from graphflow.cli.origins import split_reference
from graphflow.cli.redis_lines import lines_for_look
from graphflow.cli.stored import LATEST
from graphflow.clock import now
from graphflow.graph.tasks import RunStatus, Task
from graphflow.ids import check_run_id, new_run_id
from graphflow.origin import name_of
from graphflow.server.address import masked_words
from graphflow.settings import DEFAULT_DRAIN_SECONDS
from graphflow.store.keys import StoreKeys

if TYPE_CHECKING:
    from graphflow.agent import Agent
    from graphflow.result import RunResult


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What `graphflow run` was asked for."""

    reference: str
    params: Sequence[str] = ()
    params_file: Path | None = None
    run_id: str | None = None
    as_json: bool = False
    url: str | None = None
    verbose: bool = False
    #: Seconds that what runs gets to end after a signal.
    grace: float = DEFAULT_DRAIN_SECONDS


def run_file(request: RunRequest) -> int:
    """Run it and return the exit code."""
    start_logging(verbose=request.verbose)
    task = Task(
        type=name_of(split_reference(request.reference)[0]),
        params=read_params(request.params_file, request.params),
    )
    return report(lambda face: _run(request, task, face), as_json=request.as_json, verbose=request.verbose)


def _run(request: RunRequest, task: Task, face: Face) -> RunResult:
    agent = load_agent(request.reference)
    if request.url is not None:
        use_store(agent, request.url)
    return drive_task(agent, task, request.run_id, face, grace=request.grace)


def report(run: Callable[[Face], RunResult], *, as_json: bool, verbose: bool) -> int:
    """Show what `run` comes to and return the exit code. `as_json`: the outcome alone on stdout, the rest on stderr."""
    face = Face(to_stderr=as_json, live=not verbose)
    with stdout_for_outcome() if as_json else contextlib.nullcontext() as print_outcome:
        outcome = run(face)
        show_outcome(outcome, face)
        if print_outcome is not None:
            print_outcome(json.dumps(outcome_fields(outcome), ensure_ascii=False))
        elif outcome.result is not None:
            face.field("result", value_text(outcome.result))
    return exit_code_of(outcome)


def use_store(agent: Agent, url: str) -> None:
    """Have the agent keep its runs there, under keys of the same prefix."""
    agent.cache = agent.cache.at(url)


def exit_code_of(outcome: RunResult) -> int:
    if outcome.status is RunStatus.SUSPENDED:
        return 4
    return 0 if outcome.is_complete else 1


def read_params(file: Path | None, pairs: Sequence[str]) -> dict[str, Any]:
    """The task's parameters: those of the file, then `KEY=VALUE` pairs, whose values are JSON if they parse."""
    params: dict[str, Any] = {}
    if file is not None:
        try:
            params = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"--params {file} cannot be read as JSON: {error}") from error
        if not isinstance(params, dict):
            raise typer.BadParameter(f'--params {file} holds no JSON object; write {{"name": value, ...}}')
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"--param {pair!r} has no name and value; write --param name=value")
        params[key] = _value_of(text)
    return params


def _value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# Driving


def drive_task(
    agent: Agent, task: Task, run_id: str | None, face: Face, *, grace: float = DEFAULT_DRAIN_SECONDS
) -> RunResult:
    """Run the task with a progress line; see `drive` for what signals do."""
    own_id = check_run_id(run_id) if run_id else new_run_id(agent.name, int(now()), random.Random())
    agent.compile()  # a graph that is wrong is refused before anything is said or started

    def run() -> Coroutine[Any, Any, RunResult]:
        face.say(f"run {own_id}")
        for line in lines_for_look(agent.cache.address, StoreKeys(agent.cache.prefix), own_id):
            face.say(line)
        return agent.run_task(task, run_id=own_id)

    go_on = resume_command(sys.argv[1:], own_id)
    return drive(agent, run, face, go_on=go_on, grace=grace, run_id=own_id)


def resume_command(arguments: Sequence[str], run_id: str) -> str:
    """The command line that goes on with the run, with passwords masked."""
    words = ["graphflow", *masked_words(arguments)]
    if not any(word == "--id" or word.startswith("--id=") for word in words):
        words += ["--id", run_id]
    return shlex.join(words)


def same_command(arguments: Sequence[str], run_id: str = "") -> str:
    """The command line once more, with passwords masked, and with the run's id in the place of @last."""
    words = (run_id if run_id and word == LATEST else word for word in masked_words(arguments))
    return shlex.join(["graphflow", *words])


def start_logging(*, verbose: bool) -> None:
    """Messages of INFO and above to stderr, or only graphflow's errors and warnings of what may lose runs."""
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    else:
        logging.getLogger("graphflow").setLevel(logging.ERROR)
        logging.getLogger("graphflow.store.checks").setLevel(logging.WARNING)


# The outcome


def show_outcome(outcome: RunResult, face: Face) -> None:
    """The table of nodes, what failed, and the status with the run's seconds."""
    face.nodes(node_rows(outcome))
    hidden = len(outcome.failures) - FAILURES_SHOWN
    face.failures(
        outcome.failures,
        more=f"and {hidden} more failures: graphflow run --json prints them all" if hidden > 0 else "",
    )
    for decision in outcome.held:
        face.field("held", decision)
    face.status("status", outcome.status.value, f" in {outcome.seconds:.1f} s")
    if outcome.error:
        face.field("waits" if outcome.status is RunStatus.SUSPENDED else "error", outcome.error)


def node_rows(outcome: RunResult) -> list[NodeRow]:
    rows = []
    for node in outcome.plan.nodes:
        state, records = outcome.run.nodes[node.index], outcome.run.maps.get(node.index)
        seconds = (
            max(0.0, state.finished - state.started) / 1000 if state.started and state.finished else None
        )
        items = items_text(records.done, records.failed, records.total) if records else ""
        rows.append(NodeRow(node.name, state.status.value, state.visits, state.attempts, seconds, items))
    return rows


def outcome_fields(outcome: RunResult) -> dict[str, Any]:
    """The outcome as JSON data."""
    failures = [
        {
            "node": failure.node,
            "item": failure.item,
            "error": failure.error,
            "attempts": failure.attempts,
            "at": last_user_frame(failure.traceback),
            "causes": [cause.told | {"at": last_user_frame(cause.traceback)} for cause in failure.causes],
        }
        for failure in outcome.failures
    ]
    return {
        "run_id": outcome.run_id,
        "status": outcome.status.value,
        "error": outcome.error,
        "result": plain(outcome.result),
        "failures": failures,
        "seconds": round(outcome.seconds, 3),
    }


@contextlib.contextmanager
def stdout_for_outcome() -> Iterator[Callable[[str], None]]:
    """What anybody prints meanwhile goes to stderr, programs that modules start included; the outcome to stdout."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)

    def print_outcome(text: str) -> None:
        with os.fdopen(os.dup(stdout), "w", encoding="utf-8", errors="backslashreplace") as out:
            out.write(f"{text}\n")

    try:
        yield print_outcome
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
