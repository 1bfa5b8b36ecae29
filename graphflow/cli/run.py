"""`graphflow run`: runs the agent of a file with a live progress line, and shows what the run came to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from graphflow.cli.faces import FAILURES_SHOWN, Face, NodeRow, items_text, plain, value_text
from graphflow.cli.frames import last_user_frame
from graphflow.cli.loading import load_agent, split_reference
from graphflow.cli.redis_lines import lines_for_look
from graphflow.cli.signals import Interrupted, Interruptions
from graphflow.errors import RunNotFound, StoreError
from graphflow.graph.tasks import Task
from graphflow.ids import RunId, check_run_id, new_run_id
from graphflow.settings import masked_url
from graphflow.store.owner import current_owner

if TYPE_CHECKING:
    from graphflow.agent import Agent
    from graphflow.result import RunResult
    from graphflow.store.contract import RunHead, Store

#: Seconds between two looks at the run's progress.
LOOK_SECONDS = 0.2
#: Seconds that threads have to end after a stop before it is said that they still run.
THREAD_SECONDS = 1.0


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


def run_file(request: RunRequest) -> int:
    """Run it and return the exit code."""
    start_logging(verbose=request.verbose)
    task = Task(
        type=Path(split_reference(request.reference)[0]).stem,
        params=read_params(request.params_file, request.params),
    )
    if not request.as_json:
        return exit_code_of(_run(request, task, Face(live=not request.verbose)))
    with _stdout_for_outcome() as print_outcome:
        outcome = _run(request, task, Face(to_stderr=True, live=not request.verbose))
        print_outcome(outcome_json(outcome))
    return exit_code_of(outcome)


def _run(request: RunRequest, task: Task, face: Face) -> RunResult:
    agent = load_agent(request.reference)
    if request.url is not None:
        use_store(agent, request.url)
    outcome = drive(agent, task, request.run_id, face)
    show_outcome(outcome, face)
    if not request.as_json and outcome.result is not None:
        face.field("result", value_text(outcome.result))
    return outcome


def use_store(agent: Agent, url: str) -> None:
    from graphflow.caches.redis_cache import RedisCache

    agent.cache = RedisCache(url)


def exit_code_of(outcome: RunResult) -> int:
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


def drive(agent: Agent, task: Task, run_id: str | None, face: Face) -> RunResult:
    """Run the task with a progress line. Ctrl-C and SIGTERM stop it, say how to go on, and are raised as typer.Exit."""
    own_id = (
        check_run_id(run_id) if run_id else new_run_id(agent.name, int(time.time() * 1000), random.Random())
    )
    with Interruptions() as interruptions:
        try:
            return interruptions.run(_drive(agent, task, own_id, face))
        except Interrupted as interrupted:
            if _threads_hang():
                face.say("waiting for functions that still run in threads; the same signal again ends them")
            raise typer.Exit(interrupted.exit_code) from None


def _threads_hang() -> bool:
    """Whether threads that the interpreter waits for do not end in a moment."""
    give_up = time.monotonic() + THREAD_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(max(0.0, give_up - time.monotonic()))
            if thread.is_alive():
                return True
    return False


async def _drive(agent: Agent, task: Task, run_id: RunId, face: Face) -> RunResult:
    agent.compile()  # a graph that is wrong is refused before anything is said or started
    async with agent.cache.store() as store:
        face.say(f"run {run_id}")
        for line in lines_for_look(agent.cache.address, run_id):
            face.say(line)
        go_on = f"go on with: {resume_command(sys.argv[1:], run_id)}"
        try:
            with face.progress() as show:
                return await _run_watched(agent, task, run_id, store, show)
        except asyncio.CancelledError:
            face.say(f"stopped; {go_on}")
            raise
        except StoreError:
            face.say(f"stopped because of the store; {go_on}")
            raise


async def _run_watched(
    agent: Agent, task: Task, run_id: RunId, store: Store, show: Callable[[str], None]
) -> RunResult:
    watching = asyncio.create_task(_watch(store, run_id, show), name="progress")
    try:
        return await agent.run_task(task, run_id=run_id)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(store: Store, run_id: RunId, show: Callable[[str], None]) -> None:
    while True:
        try:
            show(_progress_of(await store.head(run_id)))
        except RunNotFound:
            show("starting")
        except StoreError:
            show("waiting for the store")
        await asyncio.sleep(LOOK_SECONDS)


def _progress_of(head: RunHead) -> str:
    if head.owner and head.owner != current_owner():
        return f"{head.progress}, driven by {owner_text(head.owner)}"
    return head.progress


def owner_text(owner: str) -> str:
    """Host and process of an owner, as `host:pid`."""
    return owner.rpartition(":")[0]


def resume_command(arguments: Sequence[str], run_id: str) -> str:
    """The command line that goes on with the run, with passwords masked."""
    words = ["graphflow", *(masked_url(word) for word in arguments)]
    if not any(word == "--id" or word.startswith("--id=") for word in words):
        words += ["--id", run_id]
    return shlex.join(words)


def start_logging(*, verbose: bool) -> None:
    """Messages of INFO and above to stderr, or only graphflow's errors."""
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    else:
        logging.getLogger("graphflow").setLevel(logging.ERROR)


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
        face.field("error", outcome.error)


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


def outcome_json(outcome: RunResult) -> str:
    failures = [
        {
            "node": failure.node,
            "item": failure.item,
            "error": failure.error,
            "attempts": failure.attempts,
            "at": last_user_frame(failure.traceback),
        }
        for failure in outcome.failures
    ]
    return json.dumps(
        {
            "run_id": outcome.run_id,
            "status": outcome.status.value,
            "error": outcome.error,
            "result": plain(outcome.result),
            "failures": failures,
            "seconds": round(outcome.seconds, 3),
        },
        ensure_ascii=False,
    )


@contextlib.contextmanager
def _stdout_for_outcome() -> Iterator[Callable[[str], None]]:
    """What anybody prints meanwhile goes to stderr, programs that modules start included; the outcome to stdout."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)

    def print_outcome(text: str) -> None:
        with os.fdopen(os.dup(stdout), "w", encoding="utf-8") as out:
            out.write(f"{text}\n")

    try:
        yield print_outcome
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
