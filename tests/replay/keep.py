"""Keeps runs as the code of today writes them: `python -m tests.replay.keep FOLDER [NAME ...]`, all of them without a name.

In FOLDER, below `kept/`, each run gets its commands, its page, and what becomes of it. A run that is there is not written
anew; with `--outcomes` what becomes of it is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import redis

from graphflow import failpoints
from graphflow.engine.maps import driver as map_driver
from graphflow.errors import RunInterrupted
from graphflow.rules import retries
from tests.replay import kept_graphs
from tests.replay.kept_graphs import DEADLINE_SECONDS, Outside
from tests.replay.kept_runs import KEPT
from tests.replay.outcomes import actions_for, as_text, outcome_of
from tests.replay.stored_text import Command, commands_of, page_of, read_commands, write_commands
from tests.servers import RealServer

FOLDER = Path(__file__).parent / "kept"
ROOT = str(Path(__file__).parents[2])
#: Where a run that was kept says that its code and its processes were.
ELSEWHERE, HOST = "/elsewhere/graphflow", "elsewhere"
#: Seconds without a commit after which nothing more happens in a run.
QUIET_SECONDS = 1.0
#: Seconds between two attempts: long enough that a run is quiet meanwhile.
BACKOFF_SECONDS = 3.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--outcomes", action="store_true")
    options = parser.parse_args()
    folder = FOLDER / options.folder
    there = [path.stem for path in sorted(folder.glob("*.dump"))]
    names = options.names or (there if options.outcomes else list(KEPT))
    if not options.outcomes and (kept := set(names).intersection(there)):
        parser.error(
            f"{folder.name} keeps {', '.join(sorted(kept))} as earlier code wrote it; name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with RealServer() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        if not options.outcomes:
            for name in names:
                keep(name, folder, server.url, client)
            # A run whose time is short has used it up.
            time.sleep(DEADLINE_SECONDS)
        for name in names:
            write_outcomes(name, folder, server.url, client)


def keep(name: str, folder: Path, url: str, client: redis.Redis) -> None:
    client.flushall()
    make_run(name, url, client)
    commands = placed_elsewhere(commands_of(client))
    write_commands(folder / f"{name}.dump", commands)
    (folder / f"{name}.txt").write_text(page_of(commands))
    print(f"{name}: {len(commands)} commands")


def make_run(name: str, url: str, client: redis.Redis) -> None:
    """Drive the run in a process of its own to where it is to stand, and let its lease run out."""
    kept = KEPT[name]
    process = multiprocessing.get_context("spawn").Process(target=drive, args=(name, url))
    process.start()
    wait_until_quiet(client, name, process)
    if kept.ends == "killed":
        process.kill()
    elif kept.ends == "drained":
        process.terminate()
    process.join()
    if kept.lease_seconds < QUIET_SECONDS:
        time.sleep(2 * kept.lease_seconds)
    with mock.patch.object(socket, "gethostname", return_value=HOST):
        asyncio.run(kept.then(kept.build(url, Outside()), name))


def wait_until_quiet(client: redis.Redis, name: str, process: multiprocessing.process.BaseProcess) -> None:
    """Until the process has ended, or the run that it drives gets no more commits."""
    seen, since = None, time.monotonic()
    while process.is_alive() and (seen is None or time.monotonic() - since < QUIET_SECONDS):
        found = client.hget(f"gf:run:{{{name}}}", "op")
        if found != seen:
            seen, since = found, time.monotonic()
        time.sleep(0.01)


def drive(name: str, url: str) -> None:
    """The body of the process that drives a run."""
    kept = KEPT[name]
    outside = Outside(stuck=kept.stuck, broken=kept.broken)
    agent = kept.build(url, outside)
    agent.lease_seconds = kept.lease_seconds
    # The run then says where its agent is.
    kept_graphs.agent = agent  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, lambda *_: agent.drain(0.1))
    with recording():
        failpoints.configure(kept.failpoints)
        with suppress(RunInterrupted):
            asyncio.run(kept.drive(agent, kept.task, kept.state, name, outside))


@contextmanager
def recording() -> Iterator[None]:
    """A host of no name in particular, and waits between attempts that are no matter of chance."""
    with (
        mock.patch.object(socket, "gethostname", return_value=HOST),
        mock.patch.object(retries, "backoff_seconds", return_value=BACKOFF_SECONDS),
        mock.patch.object(map_driver, "backoff_seconds", return_value=BACKOFF_SECONDS),
    ):
        yield


def placed_elsewhere(commands: list[Command]) -> list[Command]:
    """The same without the folder of this checkout, which tracebacks name."""
    placed: list[Command] = json.loads(json.dumps(commands).replace(ROOT, ELSEWHERE))
    return placed


def write_outcomes(name: str, folder: Path, url: str, client: redis.Redis) -> None:
    commands = read_commands(folder / f"{name}.dump")
    found: dict[str, object] = {}
    for action in actions_for(name, commands):
        found[action] = outcome_of(name, action, commands, url, client)
    (folder / f"{name}.json").write_text(as_text(found) + "\n")
    print(f"{name}: {', '.join(found)}")


if __name__ == "__main__":
    main()
