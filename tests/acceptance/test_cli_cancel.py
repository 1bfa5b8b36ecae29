"""F33: `graphflow cancel`, from another process, at every stage of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.acceptance.command_line import (
    environment,
    graphflow,
    run_id_of,
    socket_of,
    started,
    wait_for_field,
)
from tests.helpers import wait_until

#: Every body notes that it has begun, and waits where the file of its name does not exist yet.
GATED = """
import asyncio
from pathlib import Path
from graphflow import Agent

agent = Agent(lease_seconds=1)

async def pass_gate(name):
    with Path("begun").open("a") as log:
        print(name, file=log)
    try:
        while not Path(name).exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        Path(f"{name}-cancelled").touch()
        raise

@agent.node
async def split():
    await pass_gate("split")
    return list(range(20))

@agent.node(map_over="split", max_concurrency=5)
async def double(number):
    await pass_gate(f"double-{number}")
    return 2 * number

@agent.node
async def combine(double):
    await pass_gate("combine")
    return sum(double)
"""
EVERY_GATE = ["split", *(f"double-{number}" for number in range(20)), "combine"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gated.py").write_text(GATED)
    return tmp_path


def begun(folder: Path) -> list[str]:
    log = folder / "begun"
    return log.read_text().split() if log.exists() else []


def open_gates(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def field(folder: Path, run_id: str, name: str) -> str:
    return graphflow(folder, "redis-cli", "hget", f"gf:run:{{{run_id}}}", name).stdout.strip()


def kill_in_the_middle(folder: Path, run_id: str) -> None:
    with started(folder, "run", "gated.py", "--id", run_id) as process:
        wait_until(lambda: "split" in begun(folder), what="split to begin", timeout_seconds=30)
        process.kill()


@pytest.mark.parametrize(
    ("opened", "stage"),
    [
        ([], "split"),
        (["split"], "double-4"),
        (["split", "double-0", "double-1", "double-2"], "double-7"),
        (EVERY_GATE[:-1], "combine"),
    ],
    ids=["mid-module", "start of the fan-out", "during the fan-out", "while aggregating"],
)
def test_f33_run_is_cancelled_in_the_process_that_drives_it(
    folder: Path, opened: list[str], stage: str
) -> None:
    open_gates(folder, *opened)
    with started(folder, "run", "gated.py", "--id", "stop-me") as driver:
        wait_until(lambda: stage in begun(folder), what=f"{stage} to begin", timeout_seconds=30)

        cancelled = graphflow(folder, "cancel", "stop-me", "--reason", "enough of it")
        output, _ = driver.communicate(timeout=30)

    assert cancelled.returncode == 0, cancelled.stderr
    assert run_id_of(cancelled.stdout) == "stop-me"
    assert f":{driver.pid}, which drives it, to end it" in cancelled.stdout
    assert "status   cancelled, " in cancelled.stdout
    assert driver.returncode == 1
    assert "status   cancelled" in output
    assert "enough of it" in output
    assert (folder / f"{stage}-cancelled").exists(), "the body saw CancelledError"
    assert "enough of it" in field(folder, "stop-me", "error")
    running = graphflow(folder, "redis-cli", "hvals", "gf:run:{stop-me}:nodes").stdout.split()
    assert set(running) <= {"succeeded", "pending"}
    open_gates(folder, *EVERY_GATE)
    before = begun(folder)
    assert graphflow(folder, "resume", "stop-me").returncode == 1
    assert begun(folder) == before, "a cancelled run stays as it is"


def test_f33_run_that_nobody_drives_is_ended_here(folder: Path) -> None:
    kill_in_the_middle(folder, "orphan")

    cancelled = graphflow(folder, "cancel", "@last")

    assert cancelled.returncode == 0, cancelled.stderr
    assert cancelled.stdout.splitlines()[0] == "run orphan"
    assert "status   cancelled" in cancelled.stdout
    assert field(folder, "orphan", "status") == "cancelled"
    assert begun(folder) == ["split"], "nothing ran for it"
    assert not socket_of(folder).exists()


def test_f33_run_is_cancelled_before_it_has_started(folder: Path) -> None:
    process = graphflow(
        folder,
        *("run", "gated.py", "--id", "unborn"),
        env={"GRAPHFLOW_FAILPOINTS": "create.after_reply=kill"},
    )
    assert process.returncode == -signal.SIGKILL
    assert field(folder, "unborn", "status") == "waiting"

    cancelled = graphflow(folder, "cancel", "unborn")

    assert cancelled.returncode == 0, cancelled.stderr
    assert field(folder, "unborn", "status") == "cancelled"
    assert begun(folder) == []


def test_f33_run_that_is_over_stays_as_it_is_however_often_it_is_cancelled(folder: Path) -> None:
    open_gates(folder, *EVERY_GATE)
    graphflow(folder, "run", "gated.py", "--id", "done")
    for gate in EVERY_GATE:
        (folder / gate).unlink()
    (folder / "begun").unlink()
    kill_in_the_middle(folder, "twice")

    of_done = graphflow(folder, "cancel", "done")
    first = graphflow(folder, "cancel", "twice", "--reason", "first")
    second = graphflow(folder, "cancel", "twice", "--reason", "second")

    assert of_done.returncode == first.returncode == second.returncode == 0
    assert "status   complete, it was over already" in of_done.stdout
    assert "status   cancelled, it was over already" in second.stdout
    assert field(folder, "done", "status") == "complete"
    assert "first" in field(folder, "twice", "error")
    assert "second" not in field(folder, "twice", "error")


def test_code_of_the_run_is_not_needed(folder: Path) -> None:
    kill_in_the_middle(folder, "orphan")
    (folder / "gated.py").rename(folder / "renamed.py")

    cancelled = graphflow(folder, "cancel", "orphan", "--reason", "no longer needed")

    assert cancelled.returncode == 0, cancelled.stderr
    assert cancelled.stdout.splitlines()[-1] == "status   cancelled, no longer needed"
    assert field(folder, "orphan", "error") == "no longer needed"
    nodes = graphflow(folder, "redis-cli", "hvals", "gf:run:{orphan}:nodes").stdout.split()
    assert set(nodes) == {"pending"}, "what was in flight was stopped"
    resumed = graphflow(folder, "resume", "orphan", "--agent", "renamed.py")
    assert resumed.returncode == 1
    assert "no longer needed" in resumed.stdout
    assert begun(folder) == ["split"], "nothing ran for it"


def test_run_is_cancelled_although_its_graph_has_changed_since(folder: Path) -> None:
    kill_in_the_middle(folder, "orphan")
    (folder / "gated.py").write_text(GATED.replace("max_concurrency=5", "max_concurrency=6"))

    cancelled = graphflow(folder, "cancel", "orphan")

    assert cancelled.returncode == 0, cancelled.stderr
    assert field(folder, "orphan", "status") == "cancelled"


def test_run_whose_task_is_of_a_type_that_only_its_code_registers_is_cancelled(folder: Path) -> None:
    (folder / "typed.py").write_text(
        "from enum import Enum\nfrom graphflow import Task, register_type\nfrom gated import agent\n"
        "Colour = register_type(Enum('Colour', 'RED'), name='Colour')\n"
        "if __name__ == '__main__':\n"
        "    agent.run_task_sync(Task(type='t', params={'colour': Colour.RED}), run_id='typed')\n"
    )
    kill = {"GRAPHFLOW_FAILPOINTS": "create.after_reply=kill"}
    process = subprocess.run([sys.executable, "typed.py"], cwd=folder, env=environment(kill), timeout=30)
    assert process.returncode == -signal.SIGKILL

    cancelled = graphflow(folder, "cancel", "typed")

    assert cancelled.returncode == 0, cancelled.stderr
    assert field(folder, "typed", "status") == "cancelled"


def test_cancel_of_a_run_that_is_not_there_is_exit_code_3(folder: Path) -> None:
    refused = graphflow(folder, "cancel", "nowhere")

    assert refused.returncode == 3
    assert "no run 'nowhere' in embedded://" in refused.stderr
    assert not (folder / ".graphflow").exists()


def test_driver_that_hangs_loses_the_run_to_who_cancels_it(folder: Path) -> None:
    """Its process is stopped, its lease expires, and the cancel ends the run without it."""
    with started(folder, "run", "gated.py", "--id", "stuck") as driver:
        wait_for_field(folder, "gf:run:{stuck}", "revision", at_least=1)
        wait_until(lambda: "split" in begun(folder), what="split to begin", timeout_seconds=30)
        os.kill(driver.pid, signal.SIGSTOP)
        try:
            cancelled = graphflow(folder, "cancel", "stuck")
            with redis.Redis(unix_socket_path=str(socket_of(folder)), decode_responses=True) as client:
                status = client.hget("gf:run:{stuck}", "status")
        finally:
            os.kill(driver.pid, signal.SIGCONT)
        output, _ = driver.communicate(timeout=30)

    assert cancelled.returncode == 0, cancelled.stderr
    assert status == "cancelled"
    assert "status   cancelled" in output, "the driver finds the run over"
