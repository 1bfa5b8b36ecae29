"""A process to be killed: starts a run, or goes on with it, and prints what it came to.

    python -m tests.faults.victim URL RUN_ID FORM LOG [--delay SECONDS] [--lease-seconds SECONDS] [--barrier FILE]
        [--fails-once] [--order together|forwards|backwards] [--count]

Prints `begun` when everything is imported, waits there until the barrier's file exists, and prints one line of JSON at
the end; with `--count` it says how often each failpoint was passed. SIGTERM drains.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from graphflow import failpoints
from graphflow.agent import Agent
from graphflow.errors import RunInterrupted
from graphflow.graph.tasks import RunStatus
from tests.faults.graphs import AGGREGATES, ALL_FORMS, Form, agent_of, task_of


class Counting(dict[str, Any]):
    """In the place of the configured failpoints: counts who asks for one."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: Counter[str] = Counter()

    def get(self, name: str, default: Any = None) -> None:
        self.passed[name] += 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("run_id")
    parser.add_argument("form", choices=ALL_FORMS)
    parser.add_argument("log", type=Path)
    parser.add_argument("--delay", type=float)
    parser.add_argument("--lease-seconds", type=float, default=10.0)
    parser.add_argument("--barrier", type=Path)
    parser.add_argument("--fails-once", action="store_true")
    parser.add_argument("--order", default="together")
    parser.add_argument("--count", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    agent = agent_of(
        options.form,
        options.url,
        options.log,
        delay=options.delay,
        lease_seconds=options.lease_seconds,
        fails_once=options.fails_once,
        order=options.order,
    )
    signal.signal(signal.SIGTERM, lambda *_: agent.drain())
    counting = Counting()
    if options.count:
        failpoints._places = counting
    print("begun", flush=True)
    while options.barrier is not None and not options.barrier.exists():
        time.sleep(0.001)
    outcome = outcome_of(agent, options.form, options.run_id)
    if options.count:
        outcome["passed"] = counting.passed
    print(json.dumps(outcome), flush=True)


def outcome_of(agent: Agent, form: Form, run_id: str) -> dict[str, Any]:
    try:
        outcome = agent.run_task_sync(task_of(form), run_id=run_id)
    except RunInterrupted:
        return {"status": "interrupted", "error": None, "answer": None}
    answer = outcome[AGGREGATES[form][1]] if outcome.status is RunStatus.COMPLETE else None
    return {"status": outcome.status, "error": outcome.error, "answer": answer}


if __name__ == "__main__":
    main()
