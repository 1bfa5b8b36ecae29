"""A process to be killed: starts a run, or goes on with it, and prints what it came to.

    python -m tests.faults.victim URL RUN_ID FORM LOG [--delay SECONDS] [--lease-seconds SECONDS] [--barrier FILE]
        [--fails-once] [--order together|forwards|backwards] [--count] [--poison ITEM] [--slots COUNT]
        [--max-crashes COUNT] [--reply-seconds SECONDS] [--storm SEED] [--cancel]

Prints `begun` when everything is imported, waits there until the barrier's file exists, and prints one line of JSON at
the end; with `--count` it says how often each failpoint was passed. SIGTERM drains. With `--storm` its first calls are
cut short, at moments that the seed says; with `--cancel` it ends the run instead of driving it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import signal
import time
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from graphflow import failpoints
from graphflow.agent import Agent
from graphflow.errors import LeaseHeld, RunInterrupted, RunNotFound, StoreUnreachable
from graphflow.graph.tasks import RunStatus
from graphflow.server import connection
from tests.faults.graphs import AGGREGATES, ALL_FORMS, Form, agent_of, task_of

#: Rounds of a storm, calls of each, and seconds after which a call is cut short, at most.
STORM_ROUNDS = 6
STORM_CALLS = 3
STORM_PATIENCE = 0.4


class Counting(dict[str, Any]):
    """In the place of the configured failpoints: counts who asks for one."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: Counter[str] = Counter()

    def get(self, name: str, default: Any = None) -> None:
        self.passed[name] += 1


def parsed() -> argparse.Namespace:
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
    parser.add_argument("--poison", type=int)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--max-crashes", type=int)
    parser.add_argument("--reply-seconds", type=float)
    parser.add_argument("--storm", type=int)
    parser.add_argument("--cancel", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    warnings.simplefilter("default", ResourceWarning)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    agent = made_agent(options)
    signal.signal(signal.SIGTERM, lambda *_: agent.drain())
    if options.reply_seconds is not None:
        give_up_after(options.reply_seconds)
    counting = Counting()
    if options.count:
        failpoints._places = counting
    print("begun", flush=True)
    while options.barrier is not None and not options.barrier.exists():
        time.sleep(0.001)
    if options.cancel:
        outcome = asyncio.run(cancelled(agent, options.run_id))
    else:
        outcome = asyncio.run(outcome_of(agent, options.form, options.run_id, options.storm))
    if options.count:
        outcome["passed"] = counting.passed
    print(json.dumps(outcome), flush=True)


def made_agent(options: argparse.Namespace) -> Agent:
    agent = agent_of(
        options.form,
        options.url,
        options.log,
        delay=options.delay,
        lease_seconds=options.lease_seconds,
        fails_once=options.fails_once,
        order=options.order,
        poison=options.poison,
    )
    if options.slots is not None:
        agent.max_concurrent_tasks = options.slots
    if options.max_crashes is not None:
        for node in agent.nodes.values():
            node.node_config.max_crashes = options.max_crashes
    return agent


def give_up_after(seconds: float) -> None:
    """Give a connection without a reply up sooner than users' processes do."""
    for function in (connection.open_client, connection.open_sync_client):
        assert function.__kwdefaults__ is not None
        function.__kwdefaults__["reply_seconds"] = seconds
    connection.CONNECT_SECONDS = seconds


async def outcome_of(agent: Agent, form: Form, run_id: str, storm: int | None) -> dict[str, Any]:
    """What the run came to, or why this process does not know: `interrupted`, `lost` (the store holds no such run any
    more) or `unreachable` (it did not answer at the start)."""
    try:
        if storm is not None:
            await cut_calls_short(agent, form, run_id, random.Random(storm))
        outcome = await agent.run_task(task_of(form), run_id=run_id)
    except RunInterrupted:
        return said("interrupted")
    except RunNotFound:
        return said("lost")
    except StoreUnreachable as error:
        return said("unreachable", str(error))
    has_answer = outcome.status in (RunStatus.COMPLETE, RunStatus.PARTIAL)
    return said(outcome.status, outcome.error, outcome[AGGREGATES[form][1]] if has_answer else None)


async def cancelled(agent: Agent, run_id: str) -> dict[str, Any]:
    try:
        return said(await agent.cancel(run_id))
    except RunNotFound:
        return said("lost")
    except StoreUnreachable as error:
        return said("unreachable", str(error))


def said(status: str, error: str | None = None, answer: object = None) -> dict[str, Any]:
    return {"status": status, "error": error, "answer": answer}


async def cut_calls_short(agent: Agent, form: Form, run_id: str, numbers: random.Random) -> None:
    """Call the agent several times at once, again and again, and leave each call early."""

    async def stream() -> None:
        async for event in agent.stream(task_of(form), run_id=run_id):
            assert event.revision >= 0

    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: agent.run_task(task_of(form), run_id=run_id),
        lambda: agent.resume(run_id),
        lambda: agent.state(run_id),
        lambda: agent.recover(),
        stream,
    )

    async def cut_short(call: Callable[[], Awaitable[object]], seconds: float) -> None:
        with suppress(TimeoutError, LeaseHeld, RunNotFound, StoreUnreachable):
            await asyncio.wait_for(call(), seconds)

    for _ in range(STORM_ROUNDS):
        chosen = numbers.choices(calls, k=STORM_CALLS)
        rounds = (cut_short(call, STORM_PATIENCE * numbers.random()) for call in chosen)
        for ended in await asyncio.gather(*rounds, return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended


if __name__ == "__main__":
    main()
