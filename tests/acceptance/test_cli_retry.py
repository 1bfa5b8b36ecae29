"""`graphflow retry`: a new run tries again what failed, from any folder and however often it is interrupted."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.command_line import graphflow, run_id_of

AGENT = """
from pathlib import Path

from graphflow import Agent, SnapshotControl

agent = Agent()


@agent.node(snapshot=SnapshotControl.ALWAYS)
def numbers():
    return [1, 2, 3, 4]


@agent.node(map_over="numbers", max_retries=1)
def double(number):
    with Path("calls.txt").open("a") as calls:
        calls.write(f"{number}\\n")
    if number == 3 and not Path("mended").exists():
        raise ValueError("three is broken")
    return number * 2


@agent.node
def total(double):
    return sum(double)
"""


def failing_file(folder: Path) -> None:
    (folder / "sums.py").write_text(AGENT)


def calls(folder: Path) -> list[int]:
    return sorted(int(line) for line in (folder / "calls.txt").read_text().split())


def test_retry_runs_what_failed_and_keeps_the_rest(tmp_path: Path) -> None:
    failing_file(tmp_path)
    partial = graphflow(tmp_path, "run", "sums.py", "--id", "sums-1")
    assert partial.returncode == 1
    assert "graphflow retry sums-1" in partial.stdout
    (tmp_path / "mended").touch()

    shown = graphflow(tmp_path, "retry", "sums-1")

    assert shown.returncode == 0, shown.stderr
    assert run_id_of(shown.stdout) != "sums-1"
    assert shown.stdout.splitlines()[1] == "goes on from run sums-1"
    assert "result   20" in shown.stdout.splitlines()
    assert calls(tmp_path) == [1, 2, 3, 3, 4]


def test_retry_under_an_id_of_ones_own_returns_the_run_that_is_there(tmp_path: Path) -> None:
    failing_file(tmp_path)
    graphflow(tmp_path, "run", "sums.py", "--id", "sums-1")
    (tmp_path / "mended").touch()

    first = graphflow(tmp_path, "retry", "@last", "--id", "sums-2", "--json")
    second = graphflow(tmp_path, "retry", "sums-1", "--id", "sums-2", "--json")

    outcomes = [json.loads(shown.stdout) for shown in (first, second)]
    assert [outcome["run_id"] for outcome in outcomes] == ["sums-2", "sums-2"]
    assert [outcome["result"] for outcome in outcomes] == [20, 20]
    assert calls(tmp_path) == [1, 2, 3, 3, 4]


def test_retry_from_a_snapshot_runs_what_came_after_it(tmp_path: Path) -> None:
    failing_file(tmp_path)
    graphflow(tmp_path, "run", "sums.py", "--id", "sums-1")
    (tmp_path / "mended").touch()

    shown = graphflow(tmp_path, "retry", "sums-1", "--at", "1", "--json")

    assert json.loads(shown.stdout)["result"] == 20
    assert calls(tmp_path) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_retry_says_what_it_cannot_do(tmp_path: Path) -> None:
    failing_file(tmp_path)
    (tmp_path / "mended").touch()
    graphflow(tmp_path, "run", "sums.py", "--id", "sums-1")

    complete = graphflow(tmp_path, "retry", "sums-1")
    no_snapshot = graphflow(tmp_path, "retry", "sums-1", "--at", "7")
    no_run = graphflow(tmp_path, "retry", "nothing")

    assert (complete.returncode, no_snapshot.returncode, no_run.returncode) == (2, 3, 3)
    assert "nothing to try again" in complete.stderr
    assert "it keeps 1" in no_snapshot.stderr
    assert "Traceback" not in complete.stderr + no_snapshot.stderr + no_run.stderr
