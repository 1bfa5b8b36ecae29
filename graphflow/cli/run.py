"""`graphflow run`: runs the agent of a file with a live progress line, and shows what it came to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from graphflow.cli.faces import FAILURES_SHOWN, Face, NodeRow, items_text, plain, value_text
from graphflow.cli.frames import last_user_frame
from graphflow.cli.loading import load_agent, split_reference
from graphflow.cli.look import redis_cli_line
from graphflow.cli.signals import Interrupted, Interruptions
from graphflow.errors import RunNotFound, StoreError
from graphflow.graph.tasks import RunStatus, Task
from graphflow.ids import RunId, check_run_id, new_run_id
from graphflow.settings import masked_url

if TYPE_CHECKING:
    from graphflow.agent import Agent
    from graphflow.result import RunResult
    from graphflow.store.contract import Store

#: Seconds between two looks at the run's progress.
LOOK_SECONDS = 0.2


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
    params = read_params(request.params_file, request.params)
    with contextlib.ExitStack() as stack:
        if request.as_json:
            print_outcome = stack.enter_context(_stdout_for_json())
        face = Face(to_stderr=request.as_json, live=not request.verbose)
        agent = load_agent(request.reference)
        if request.url is not None:
            use_store(agent, request.url)
        stem = Path(split_reference(request.reference)[0]).stem
        outcome = drive(agent, Task(type=stem, params=params), request.run_id, face)
        if outcome is None:
            return 130
        show_outcome(face, outcome)
        if request.as_json:
            print_outcome(outcome_json(outcome))
    return exit_code_of(outcome)


def drive(agent: Agent, task: Task, run_id: str | None, face: Face) -> RunResult:
    """Run the task with a live progress line. Ctrl-C and SIGTERM end it, saying how to go on, with typer.Exit."""
    own_id = check_run_id(run_id) if run_id else new_run_id(agent.name, int(time.time() * 1000), random.Random())
    go_on = f"go on with: {resume_command(sys.argv[1:], own_id)}"
    with Interruptions() as interruptions:
        try:
            return interruptions.run(_drive(agent, task, own_id, face, go_on))
        except Interrupted as interrupted:
            raise typer.Exit(interrupted.exit_code) from None
