"""A process to be killed: starts a run, or goes on with it, and prints what it came to.

    python -m tests.faults.victim URL RUN_ID naive|map LOG [--delay SECONDS] [--lease-seconds SECONDS] [--barrier FILE]

Prints `begun` when everything is imported, waits there until the barrier's file exists, and prints one line of JSON at
the end.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

from tests.faults.graphs import AGGREGATES, agent_of, task_of


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("run_id")
    parser.add_argument("form", choices=("naive", "map"))
    parser.add_argument("log", type=Path)
    parser.add_argument("--delay", type=float)
    parser.add_argument("--lease-seconds", type=float, default=10.0)
    parser.add_argument("--barrier", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    agent = agent_of(
        options.form, options.url, options.log, delay=options.delay, lease_seconds=options.lease_seconds
    )
    print("begun", flush=True)
    while options.barrier is not None and not options.barrier.exists():
        time.sleep(0.001)
    outcome = agent.run_task_sync(task_of(options.form), run_id=options.run_id)
    _, key = AGGREGATES[options.form]
    print(json.dumps({"status": outcome.status, "error": outcome.error, "answer": outcome[key]}), flush=True)


if __name__ == "__main__":
    main()
