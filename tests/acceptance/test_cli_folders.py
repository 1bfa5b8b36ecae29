"""The command in folders that were copied, that came with somebody's files, or that were open to other users."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from tests.acceptance.command_line import (
    PATIENCE_SECONDS,
    doubles_file,
    environment,
    graphflow,
    socket_of,
    started,
)
from tests.helpers import wait_until


def test_look_into_a_copied_folder_leaves_the_run_in_the_original_alone(tmp_path: Path) -> None:
    original, copied = tmp_path / "A", tmp_path / "B"
    original.mkdir()
    doubles_file(original)
    with started(original, "run", "doubles.py", "--id", "busy", "--param", "seconds=60"):
        wait_until((original / "executions").exists, timeout_seconds=30)
        subprocess.run(["cp", "-r", str(original), str(copied)], check=True)

        looked = graphflow(copied, "list")

        assert looked.returncode == 0, looked.stderr
        assert "busy" in looked.stdout
        assert not socket_of(copied).exists()
        shown = graphflow(original, "list")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "busy" in shown.stdout


def test_look_into_a_folder_that_came_from_elsewhere_removes_no_socket(tmp_path: Path) -> None:
    folder = tmp_path / ".graphflow"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(tmp_path / "own.sock"))
    (folder / "server.json").write_text(
        json.dumps({"engine": "valkey", "version": "7.2.0", "socket": str(tmp_path / "own.sock")})
    )

    looked = graphflow(tmp_path, "list")

    assert looked.returncode == 0, looked.stderr
    assert (tmp_path / "own.sock").is_socket()


FORKING = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from graphflow import Agent, Task

def double(number):
    agent = Agent()

    @agent.node
    def doubled(task):
        return number * 2

    return agent.run_task_sync(Task(type="double", params={}))["doubled"]

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        print(list(pool.map(double, range(4))))
"""


def test_program_whose_forked_children_alone_use_the_server_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "forking.py").write_text(FORKING)

    done = subprocess.run(
        [sys.executable, "forking.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert (done.returncode, done.stdout) == (0, "[0, 2, 4, 6]\n"), done.stderr
    wait_until(lambda: not socket_of(tmp_path).exists(), what="the end of the server")


def test_doctor_says_what_other_users_could_read(tmp_path: Path) -> None:
    doubles_file(tmp_path)
    folder = tmp_path / ".graphflow"
    folder.mkdir(mode=0o755)
    assert graphflow(tmp_path, "run", "doubles.py").returncode == 0
    assert folder.stat().st_mode & 0o077 == 0
    for path in (folder, folder / "server.log"):
        path.chmod(path.stat().st_mode | 0o044)

    found = graphflow(tmp_path, "doctor")
    again = json.loads(graphflow(tmp_path, "doctor", "--json").stdout)

    assert found.returncode == 0, found.stdout
    assert f"{folder} and 1 more; other users could read it until now" in found.stdout
    assert (again["closed_to_others"], again["open_to_others"], again["problems"]) == ([], [], [])


def test_folder_that_is_a_loop_or_has_a_spoilt_record_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / ".graphflow").symlink_to(".graphflow")
    (tmp_path / "spoilt" / ".graphflow").mkdir(parents=True)
    (tmp_path / "spoilt" / ".graphflow" / "server.json").write_text(
        '{"engine": 1, "version": [], "socket": {}}'
    )

    for name in ("loop", "spoilt"):
        looked = graphflow(tmp_path / name, "list")

        assert (looked.returncode, looked.stdout) == (5, "")
        assert looked.stderr.startswith("Error: cannot ")
        assert looked.stderr.count("\n") == 1
