"""`graphflow list`, `show`, `redis-cli` and `server`: looking at runs, while they go on and afterwards."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.command_line import (
    doubles_file,
    graphflow,
    socket_of,
    started,
    wait_for_field,
)
from tests.helpers import wait_until
from tests.servers import redis_cli_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs: complete, partial and failed, in this order."""
    folder = tmp_path_factory.mktemp("look")
    doubles_file(folder)
    for run_id, *params in (("good",), ("mixed", "bad=[1]"), ("broken", "text=broken")):
        words = [word for param in params for word in ("--param", param)]
        graphflow(folder, "run", "doubles.py", "--id", run_id, *words)
    return folder


def test_list_shows_the_latest_runs_first(folder: Path) -> None:
    shown = graphflow(folder, "list")

    assert shown.returncode == 0
    heading, *rows = [line.split() for line in shown.stdout.splitlines()]
    assert heading[:3] == ["RUN", "STATUS", "PROGRESS"]
    assert [row[:2] for row in rows] == [["broken", "failed"], ["mixed", "partial"], ["good", "complete"]]


def test_list_shows_as_many_runs_as_asked_for(folder: Path) -> None:
    assert len(graphflow(folder, "list", "--count", "2").stdout.splitlines()) == 3


def test_list_in_an_empty_folder_starts_no_server(tmp_path: Path) -> None:
    shown = graphflow(tmp_path, "list")

    assert shown.returncode == 0
    assert (
        shown.stdout == f"no runs in embedded://{tmp_path}/.graphflow; `graphflow demo` makes a first one\n"
    )
    assert not (tmp_path / ".graphflow").exists()


def test_show_last_is_the_latest_run(folder: Path) -> None:
    shown = graphflow(folder, "show", "@last")

    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0] == "run      broken"
    assert any(line.split()[:2] == ["combine", "failed"] for line in lines)
    assert any(line.split()[:2] == ["report", "pending"] for line in lines)
    assert 'in combine: raise LookupError("combine is broken")' in lines[-1]


def test_show_lists_failed_items_with_the_users_line(folder: Path) -> None:
    lines = graphflow(folder, "show", "mixed").stdout.splitlines()

    place = lines.index("double item 1 failed after 2 attempts: ValueError: chunk 1 is bad")
    assert lines[place + 1].endswith('in double: raise ValueError(f"chunk {chunk} is bad")')
    assert any(line.split()[0] == "double" and line.endswith("2/3, 1 failed") for line in lines if line)


PAYS = """
from graphflow import Agent, NonRetryableException

agent = Agent()

class Declined(NonRetryableException): ...

@agent.node
def pay() -> None:
    try:
        raise Declined("card 4 is stolen") from KeyError(4)
    except Declined as error:
        raise ExceptionGroup("two cards", [error])
"""


def test_show_tells_what_is_behind_a_failure(tmp_path: Path) -> None:
    (tmp_path / "pay.py").write_text(PAYS)

    ran = graphflow(tmp_path, "run", "pay.py", "--id", "paid", "--json")
    shown = graphflow(tmp_path, "show", "paid").stdout.splitlines()

    place = shown.index(
        "pay failed: ExceptionGroup: two cards (1 sub-exception), first Declined: card 4 is stolen"
    )
    assert shown[place + 1 :] == [
        '  pay.py:13 in pay: raise ExceptionGroup("two cards", [error])',
        "  member Declined: card 4 is stolen",
        '    pay.py:11 in pay: raise Declined("card 4 is stolen") from KeyError(4)',
        "    caused by KeyError: 4",
    ]
    failure = json.loads(ran.stdout)["failures"][0]
    assert failure["causes"] == [
        {
            "relation": "member",
            "type": "Declined",
            "message": "card 4 is stolen",
            "depth": 1,
            "at": 'pay.py:11 in pay: raise Declined("card 4 is stolen") from KeyError(4)',
        },
        {"relation": "cause", "type": "KeyError", "message": "4", "depth": 2, "at": None},
    ]


def test_show_says_how_far_each_map_is(folder: Path) -> None:
    lines = graphflow(folder, "show", "mixed").stdout.splitlines()

    place = next(number for number, line in enumerate(lines) if line.startswith("MAP "))
    columns = dict(zip(lines[place].split(), lines[place + 1].split(), strict=False))
    assert columns["MAP"] == "double"
    assert (columns["ENDED"], columns["FAILED"], columns["RETRIED"]) == ("3/3", "1", "1")
    assert lines[place + 2] == ""


@pytest.mark.parametrize(
    "words", [["show", "nowhere"], ["show", "nowhere", "--redis"], ["show", "nowhere", "--why", "x"]]
)
def test_a_run_that_is_not_there_is_exit_code_3_with_the_store_looked_in(
    folder: Path, words: list[str]
) -> None:
    shown = graphflow(folder, *words, is_forked=False)

    assert shown.returncode == 3
    assert f"no run 'nowhere' in embedded://{folder}/.graphflow" in shown.stderr


def test_show_in_an_empty_folder_starts_no_server(tmp_path: Path) -> None:
    shown = graphflow(tmp_path, "show", "@last")

    assert shown.returncode == 3
    assert str(tmp_path) in shown.stderr
    assert not (tmp_path / ".graphflow").exists()


def test_why_says_why_a_node_never_ran(folder: Path, tmp_path: Path) -> None:
    """From the graph that is stored with the run: its code may have changed since, or be gone."""
    (folder / "doubles.py").rename(tmp_path / "doubles.py")
    try:
        shown = graphflow(folder, "show", "broken", "--why", "report")
    finally:
        (tmp_path / "doubles.py").rename(folder / "doubles.py")

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("report never ran: combine failed")
    assert "LookupError: combine is broken" in shown.stdout


def test_why_names_the_nodes_if_there_is_none_of_that_name(folder: Path) -> None:
    shown = graphflow(folder, "show", "good", "--why", "repport", "--agent", "doubles.py:agent")

    assert shown.returncode == 2
    assert "chunks, double, combine, report" in shown.stderr


def test_redis_cli_looks_into_the_store_after_the_run(folder: Path) -> None:
    shown = graphflow(folder, "redis-cli", "hget", "gf:run:{good}", "status")
    keys = graphflow(folder, "redis-cli", "--scan", "--pattern", "gf:run:{good}*")

    assert (shown.returncode, shown.stdout) == (0, "complete\n")
    assert "gf:run:{good}:nodes" in keys.stdout.splitlines()
    assert not socket_of(folder).exists()


def test_redis_cli_without_a_store_says_so(tmp_path: Path) -> None:
    shown = graphflow(tmp_path, "redis-cli", "ping")

    assert shown.returncode == 3
    assert f"there is no store at embedded://{tmp_path}/.graphflow yet" in shown.stderr
    assert not (tmp_path / ".graphflow").exists()


@pytest.fixture
def served(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with started(folder, "server", is_forked=False) as server:
        wait_until(socket_of(folder).exists, what="the server's socket")
        yield server


def test_every_line_of_show_redis_works_as_it_is_printed(folder: Path, served: subprocess.Popen[str]) -> None:
    printed = graphflow(folder, "show", "mixed", "--redis").stdout.splitlines()
    lines = [line for line in printed if line.startswith("redis-cli ")]
    path = f"{Path(redis_cli_path()).parent}{os.pathsep}{os.environ['PATH']}"

    answers = {
        line: subprocess.run(
            line, shell=True, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        for line in lines
    }

    assert len(lines) == 8
    for line, answer in answers.items():
        assert answer.returncode == 0, line
        assert answer.stdout.strip(), line
        assert "ERR" not in answer.stdout, line
    verbs = [shlex.split(line)[3] for line in lines]
    assert verbs == ["zrevrange", "hgetall", "hgetall", "hgetall", "hget", "xrevrange", "--scan", "client"]


def test_server_serves_until_it_is_stopped(folder: Path, served: subprocess.Popen[str]) -> None:
    assert graphflow(folder, "redis-cli", "ping").stdout == "PONG\n"
    assert socket_of(folder).exists(), "the server should outlive its users"

    served.send_signal(signal.SIGINT)
    output, _ = served.communicate(timeout=30)

    assert served.returncode == 0
    assert "look into it: redis-cli -s .graphflow/redis.sock" in output
    assert not socket_of(folder).exists()


def test_a_run_under_way_is_shown_with_its_progress_and_who_drives_it(tmp_path: Path) -> None:
    doubles_file(tmp_path)
    words = ("run", "doubles.py", "--param", "count=1000", "--param", "free=10", "--id", "long")
    with started(tmp_path, *words) as run:
        wait_for_field(tmp_path, "gf:run:{long}:map:double", "done", at_least=10)
        shown = graphflow(tmp_path, "show", "long").stdout.splitlines()
        listed = graphflow(tmp_path, "list").stdout.splitlines()[1]
        run.kill()

    assert any(line.startswith("owner    ") and line.endswith(f":{run.pid}") for line in shown)
    assert any(line.split()[:2] == ["double", "running"] and "/1000" in line for line in shown if line)
    # Until its end about so long; behind it there may be an item that is slow.
    assert any(
        re.match(r"double +\d+/1000 .* (\d+\.\d|\d+ (h|min) \d+) (s|min)( |$)", line) for line in shown
    )
    assert listed.split()[:2] == ["long", "executing"]
    assert f":{run.pid}" in listed

    after = graphflow(tmp_path, "show", "long").stdout

    assert "nobody drives it; go on with: graphflow resume long" in after
