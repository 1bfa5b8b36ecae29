"""Ctrl-C and SIGTERM to a program of one's own: what runs ends and is stored, nothing more is called, and it says how to go on.

Items wait for a file, so that a signal comes while three of them are in flight, and what it does is seen before they end.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import programs
from tests.faults.harness import looking_at
from tests.helpers import wait_until
from tests.servers import RealServer

PROGRAM = """
import asyncio, os, signal, sys, time
from pathlib import Path
from graphflow import Agent, Task

agent = Agent(name="own", max_concurrent_tasks=3)

def note(what):
    file = os.open("calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{what}\\n".encode())
    os.close(file)

@agent.node
def numbers():
    return list(range(9))

@agent.node(map_over="numbers")
async def double(number, task):
    note(f"{task.params['name']}-{number}")
    while not Path(task.params["name"]).exists():
        await asyncio.sleep(0.01)
    return 2 * number

def task(name):
    return Task(type="own", params={"name": name})

def run(name):
    return agent.run_task(task(name), run_id=f"{Path.cwd().name}-{name}")

def run_sync(name):
    return agent.run_task_sync(task(name), run_id=f"{Path.cwd().name}-{name}")
"""

HOWS = {
    "asyncio.run": "outcome = asyncio.run(run('a'))",
    "run_task_sync": "outcome = run_sync('a')",
    "run_task_sync in a loop, as in a notebook": "async def cell(): return run_sync('a')\noutcome = asyncio.run(cell())",
    "a loop of one's own": "outcome = asyncio.new_event_loop().run_until_complete(run('a'))",
    "uvloop": "import uvloop\noutcome = uvloop.run(run('a'))",
}
EVERYTHING = sorted(f"a-{number}" for number in range(9))


class Folder:
    """Where the program lies, notes what it calls, and finds what its items wait for."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url

    @contextmanager
    def started(self, ending: str) -> Iterator[subprocess.Popen[str]]:
        (self.path / "own.py").write_text(f"{PROGRAM}\n{ending}\n")
        process = programs.start(
            ["own.py"],
            stdin=subprocess.PIPE,
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

    def calls(self) -> list[str]:
        log = self.path / "calls"
        return sorted(log.read_text().split()) if log.exists() else []

    def wait_called(self, count: int) -> None:
        wait_until(lambda: len(self.calls()) >= count, what=f"{count} calls")

    def let_end(self, name: str = "a") -> None:
        (self.path / name).touch()


@pytest.fixture
def folder(tmp_path: Path, redis_server: RealServer) -> Folder:
    return Folder(tmp_path, redis_server.url)


def said(process: subprocess.Popen[str]) -> str:
    """The line on how to go on; on a machine that does much else a start says before that it waits."""
    assert process.stderr is not None
    return next(line for line in process.stderr if not line.startswith("waiting for Redis"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", HOWS)
def test_interrupted_program_calls_nothing_more_and_goes_on_where_it_was(
    folder: Folder, how: str, number: signal.Signals
) -> None:
    if how == "uvloop" and not find_spec("uvloop"):
        pytest.skip("uvloop is not installed")
    run_id = f"{folder.path.name}-a"
    with folder.started(HOWS[how]) as process:
        folder.wait_called(3)
        process.send_signal(number)
        line = said(process)
        folder.let_end()
        _, rest = process.communicate(timeout=60)

    assert f"go on with: graphflow resume {run_id}, or the same call with run_id='{run_id}'\n" in line
    assert folder.calls() == ["a-0", "a-1", "a-2"]
    assert rest == "", "that line is all there is to say"
    assert process.returncode == 128 + number

    with folder.started(f"{HOWS[how]}\nprint(outcome.result)") as process:
        result, _ = process.communicate(timeout=60)

    assert result == f"{[2 * number for number in range(9)]}\n"
    assert folder.calls() == EVERYTHING


TOGETHER = {
    "gather": "async def both(): await asyncio.gather(run('a'), run('b'))",
    "task group": """
async def both():
    async with asyncio.TaskGroup() as group:
        group.create_task(run("a"))
        group.create_task(run("b"))
""",
}


@pytest.mark.parametrize("together", TOGETHER.values(), ids=TOGETHER)
def test_runs_at_the_same_time_are_all_drained_before_the_first_of_them_raises(
    folder: Folder, together: str
) -> None:
    both = f"{together}\nasyncio.run(both())"
    with folder.started(both) as process:
        folder.wait_called(6)
        process.send_signal(signal.SIGTERM)
        line = said(process)
        folder.let_end("a")
        wait_until(lambda: lease_is_gone(folder, "a"), what="the first run to be given back")
        folder.let_end("b")
        _, rest = process.communicate(timeout=60)

    assert f"resume RUN for {folder.path.name}-a, {folder.path.name}-b\n" in line
    assert rest == ""
    assert process.returncode == 128 + signal.SIGTERM
    assert len(folder.calls()) == 6

    with folder.started(both) as process:
        process.communicate(timeout=60)

    assert folder.calls() == sorted(f"{name}-{number}" for name in "ab" for number in range(9))


def lease_is_gone(folder: Folder, name: str) -> bool:
    with looking_at(folder.url) as client:
        return not client.exists(f"gf:run:{{{folder.path.name}-{name}}}:lease")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["asyncio.run", "run_task_sync in a loop, as in a notebook"])
def test_second_signal_ends_the_program_at_once(folder: Folder, how: str, number: signal.Signals) -> None:
    with folder.started(HOWS[how]) as process:
        folder.wait_called(3)
        process.send_signal(number)
        assert "a second signal ends it at once" in said(process)
        process.send_signal(number)
        process.communicate(timeout=60)

    assert process.returncode == 128 + number


def test_second_ctrl_c_at_a_prompt_keeps_the_process_and_nothing_goes_on_behind_its_back(
    folder: Folder,
) -> None:
    cell = """
sys.ps1 = "In : "
async def cell():
    try:
        run_sync("a")
    except KeyboardInterrupt:
        print("still here", flush=True)
        input()
asyncio.run(cell())
"""
    with folder.started(cell) as process:
        folder.wait_called(3)
        process.send_signal(signal.SIGINT)
        said(process)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "still here\n"
        wait_until(lambda: lease_is_gone(folder, "a"), what="the run to be given back")
        folder.let_end()
        process.kill()

    assert folder.calls() == ["a-0", "a-1", "a-2"]


def test_handler_of_somebody_else_that_raises_ends_the_wait_when_the_run_is_drained(folder: Folder) -> None:
    cell = """
def theirs(number, frame):
    raise KeyboardInterrupt("theirs")
signal.signal(signal.SIGINT, theirs)
async def cell():
    try:
        run_sync("a")
    except KeyboardInterrupt as error:
        print("raised:", error, signal.getsignal(signal.SIGINT) is theirs)
asyncio.run(cell())
"""
    with folder.started(cell) as process:
        folder.wait_called(3)
        process.send_signal(signal.SIGINT)
        assert "go on with" in said(process)
        folder.let_end()
        output, _ = process.communicate(timeout=60)

    assert output == "raised: theirs True\n"
    assert folder.calls() == ["a-0", "a-1", "a-2"]


def test_program_that_catches_it_goes_on_and_a_later_signal_stops_the_next_run(folder: Folder) -> None:
    program = """
from graphflow import RunInterrupted
try:
    run_sync("a")
except RunInterrupted as error:
    print("caught", error.signal, flush=True)
run_sync("b")
"""
    with folder.started(program) as process:
        folder.wait_called(3)
        process.send_signal(signal.SIGINT)
        assert "-a" in said(process)
        folder.let_end("a")
        assert process.stdout is not None
        assert process.stdout.readline() == "caught 2\n"
        folder.wait_called(6)
        process.send_signal(signal.SIGTERM)
        assert "-b" in said(process)
        folder.let_end("b")
        process.communicate(timeout=60)

    assert process.returncode == 128 + signal.SIGTERM
    assert len(folder.calls()) == 6


def test_signal_during_the_last_node_stops_what_follows_in_the_program(folder: Folder) -> None:
    program = """
alone = Agent(name="alone")
@alone.node
async def last():
    note("last")
    while not Path("a").exists():
        await asyncio.sleep(0.01)
    return 7
def run_alone(): return alone.run_task_sync(Task(type="alone"), run_id=f"{Path.cwd().name}-alone")
print(run_alone().result)
note("after it")
"""
    with folder.started(program) as process:
        folder.wait_called(1)
        process.send_signal(signal.SIGINT)
        said(process)
        folder.let_end()
        process.communicate(timeout=60)

    assert process.returncode == 128 + signal.SIGINT
    assert folder.calls() == ["last"]

    with folder.started(program) as process:
        output, _ = process.communicate(timeout=60)

    assert output == "7\n"
    assert folder.calls() == ["after", "it", "last"]


def test_other_errors_of_a_stopped_program_are_shown_as_ever(folder: Folder) -> None:
    program = """
from graphflow import RunInterrupted
try:
    run_sync("a")
except RunInterrupted:
    raise ValueError("theirs")
"""
    with folder.started(program) as process:
        folder.wait_called(3)
        process.send_signal(signal.SIGINT)
        said(process)
        folder.let_end()
        _, rest = process.communicate(timeout=60)

    assert process.returncode == 1
    assert rest.splitlines()[-1] == "ValueError: theirs"
