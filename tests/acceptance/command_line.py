"""Drives the command as people do: a process in a folder of its own, with that folder's embedded server.

Most calls are forked from a process that has imported the command before; `is_forked=False` starts the installed one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import redis

from graphflow.server.embedded import EmbeddedServer
from tests import programs
from tests.helpers import wait_until

#: Seconds that any command here may take.
PATIENCE_SECONDS = 60.0

DOUBLES = """
import time
from pathlib import Path

from graphflow import Agent

agent = Agent()

# Of `count` chunks those from number `free` on wait until there is a file `gate`.

@agent.node
def chunks(task):
    print("chunks prints this")
    return list(range(task.params.get("count", 3)))

@agent.node(map_over="chunks", max_retries=2)
def double(chunk, task):
    with Path("executions").open("a") as log:
        print(chunk, file=log)
    time.sleep(task.params.get("seconds", 0))
    while chunk >= task.params.get("free", chunk + 1) and not Path("gate").exists():
        time.sleep(0.01)
    if chunk in task.params.get("bad", []):
        raise ValueError(f"chunk {chunk} is bad")
    return chunk * 2

@agent.node
def combine(double, task):
    if task.params.get("text") == "broken":
        raise LookupError("combine is broken")
    return {"sum": sum(double), "text": task.params.get("text")}

@agent.node
def report(combine):
    return combine
"""


def doubles_file(folder: Path) -> Path:
    file = folder / "doubles.py"
    file.write_text(DOUBLES)
    return file


def graphflow(
    folder: Path, *words: str, env: dict[str, str] | None = None, is_forked: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return programs.run(
        command(*words),
        cwd=folder,
        env=environment(env),
        timeout=PATIENCE_SECONDS,
        is_forked=is_forked,
    )


@contextlib.contextmanager
def started(folder: Path, *words: str, is_forked: bool = True) -> Iterator[subprocess.Popen[str]]:
    """The command, under way; killed with the block if it has not ended. Both its outputs are one."""
    process = programs.start(
        command(*words),
        is_forked=is_forked,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            if socket_of(folder).exists():
                _end_server(folder)


def _end_server(folder: Path) -> None:
    """A process that was killed, or ended by a second signal, leaves its server up; whoever leaves it next as its last user ends it."""
    with EmbeddedServer(folder / ".graphflow"):
        pass


def command(*words: str) -> list[str]:
    """What Python is given to be the command."""
    return ["-m", "graphflow", *words]


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "GRAPHFLOW_REDIS_URL": "embedded://", **(more or {})}


def socket_of(folder: Path) -> Path:
    return folder / ".graphflow" / "redis.sock"


def wait_for_field(folder: Path, key: str, field: str, at_least: int) -> None:
    """Wait until a number in a hash of the folder's store is large enough."""

    def reached() -> bool:
        with redis.Redis(unix_socket_path=str(socket_of(folder)), decode_responses=True) as client:
            try:
                return int(client.hget(key, field) or 0) >= at_least
            except redis.ConnectionError:
                return False

    wait_until(reached, what=f"{key} {field} >= {at_least}", timeout_seconds=30)


def run_id_of(output: str) -> str:
    """From the first line: `run ID`."""
    word, run_id = output.splitlines()[0].split()
    assert word == "run"
    return run_id
