"""F6: SIGTERM to the process that drives a run, while another one waits for the same run: everything runs once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import programs
from tests.faults.harness import looking_at, run_field
from tests.helpers import wait_until
from tests.servers import RealServer

PROGRAM = """
import asyncio, os, time
from pathlib import Path
from graphflow import Agent

agent = Agent(max_concurrent_tasks=6)

def note(what):
    file = os.open("executions", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{what} {os.getpid()}\\n".encode())
    os.close(file)

@agent.node
def numbers():
    return list(range(60))

@agent.node(map_over="numbers")
async def double(number):
    note(f"double-{number}")
    await asyncio.sleep(0.15)
    return 2 * number

@agent.node(map_over="numbers")
def triple(number):
    note(f"triple-{number}")
    time.sleep(0.15)
    return 3 * number

@agent.node
async def once(numbers):
    note("once")
    await asyncio.sleep(1.0)
    return len(numbers)

@agent.node
def report(double, triple, once):
    note("report")
    return sum(double) + sum(triple) + once
"""
ANSWER = 5 * sum(range(60)) + 60
EVERYTHING = {
    *(f"{name}-{number}" for name in ("double", "triple") for number in range(60)),
    "once",
    "report",
}


class Folder:
    """Where the program lies and notes what it executes."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        (path / "drained.py").write_text(PROGRAM)

    @contextmanager
    def driver(self, run_id: str) -> Iterator[subprocess.Popen[str]]:
        process = programs.start(
            ["-m", "graphflow", "run", "drained.py", "--id", run_id, "--json"],
            cwd=self.path,
            env={**os.environ, "GRAPHFLOW_REDIS_URL": self.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def executions(self) -> list[list[str]]:
        """(what, pid)"""
        log = self.path / "executions"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def wait_executed(self, count: int) -> None:
        wait_until(lambda: len(self.executions()) >= count, what=f"{count} executions", timeout_seconds=30)


@pytest.fixture
def folder(tmp_path: Path, redis_server: RealServer) -> Folder:
    return Folder(tmp_path, redis_server.url)


def wait_until_waiting(url: str, run_id: str, process: subprocess.Popen[str]) -> None:
    """Until the process is connected to the store, as one that waits for the run is."""
    with looking_at(url) as client:
        wait_until(
            lambda: any(f":{process.pid}" in each["name"] for each in client.client_list()),
            what="the second process to connect",
            timeout_seconds=30,
        )
        assert run_field(client, run_id, "status") == "executing"


@pytest.mark.parametrize("executed", [2, 40, 90])
def test_f6_drained_run_goes_on_in_the_process_that_waits_and_nothing_runs_twice(
    folder: Folder, executed: int
) -> None:
    run_id = folder.path.name
    with folder.driver(run_id) as first:
        folder.wait_executed(1)
        with folder.driver(run_id) as second:
            wait_until_waiting(folder.url, run_id, second)
            folder.wait_executed(executed)

            first.send_signal(signal.SIGTERM)
            _, said = first.communicate(timeout=30)
            answer, _ = second.communicate(timeout=60)

    assert first.returncode == 143, said
    assert "stopping: what runs gets 10 s to finish" in said
    assert f"go on with: graphflow run drained.py --id {run_id} --json" in said
    assert second.returncode == 0
    assert json.loads(answer)["result"] == ANSWER
    assert Counter(what for what, _ in folder.executions()) == Counter(EVERYTHING)
    assert {int(pid) for _, pid in folder.executions()} == {first.pid, second.pid}
    with looking_at(folder.url) as client:
        assert run_field(client, run_id, "status") == "complete"


def test_drained_process_leaves_no_lease_behind(folder: Folder) -> None:
    run_id = folder.path.name
    with folder.driver(run_id) as process:
        folder.wait_executed(20)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert process.returncode == 130
    with looking_at(folder.url) as client:
        assert not client.exists(f"gf:run:{{{run_id}}}:lease")
        assert run_field(client, run_id, "owner") is None
        assert run_field(client, run_id, "status") == "executing"


def test_run_that_ends_while_it_is_drained_has_its_result(folder: Folder) -> None:
    """The last module is under way when the signal comes: the run is over with it."""
    (folder.path / "drained.py").write_text(
        "import asyncio\nfrom pathlib import Path\nfrom graphflow import Agent\nagent = Agent()\n"
        "@agent.node\nasync def only():\n"
        "    Path('executions').write_text('only 0\\n')\n"
        "    await asyncio.sleep(1)\n"
        "    return 'done'\n"
    )
    with folder.driver(folder.path.name) as process:
        folder.wait_executed(1)
        process.send_signal(signal.SIGTERM)
        answer, _ = process.communicate(timeout=30)

    assert process.returncode == 0
    assert json.loads(answer)["result"] == "done"
