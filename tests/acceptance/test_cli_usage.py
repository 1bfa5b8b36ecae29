"""The command line's words: help, wrong usage, and what its errors say."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from graphflow.cli.frames import last_user_frame
from graphflow.cli.run import read_params, resume_command
from tests.acceptance.command_line import doubles_file, graphflow


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = graphflow(tmp_path, "--help", is_forked=False)

    assert shown.returncode == 0
    for name in ("demo", "run", "resume", "cancel", "list", "show", "redis-cli", "server"):
        assert f"  {name} " in shown.stdout


def test_help_imports_neither_redis_nor_the_engine() -> None:
    program = (
        "import sys; from graphflow.cli.main import app; app(['--help'], standalone_mode=False);"
        "print([name for name in ('redis', 'pydantic', 'asyncio', 'rich', 'graphflow.agent') if name in sys.modules])"
    )

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert shown.stdout.splitlines()[-1] == "[]"


def test_console_script_is_the_same_command(tmp_path: Path) -> None:
    script = shutil.which("graphflow", path=str(Path(sys.executable).parent))
    assert script is not None

    shown = subprocess.run([script, "list"], cwd=tmp_path, capture_output=True, text=True, timeout=30)

    assert shown.returncode == 0
    assert "graphflow demo" in shown.stdout


@pytest.mark.parametrize("name", ["demo", "run", "resume", "cancel", "list", "show", "redis-cli", "server"])
def test_every_command_takes_a_url(tmp_path: Path, name: str) -> None:
    assert "--url URL" in graphflow(tmp_path, name, "--help").stdout


def test_unknown_option_is_a_usage_error(tmp_path: Path) -> None:
    refused = graphflow(tmp_path, "list", "--colour", is_forked=False)

    assert refused.returncode == 2
    assert "--colour" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nowhere.py"], "there is no file nowhere.py"),
        (["run", "doubles.py:planner"], "planner in doubles.py is no agent; agents there: agent"),
        (["run", "doubles.py", "--param", "count"], "write --param name=value"),
        (["run", "doubles.py", "--params", "doubles.py"], "cannot be read as JSON"),
        (["run", "doubles.py", "--params", "nowhere.json"], "cannot be read as JSON"),
        (["run", "doubles.py", "--id", "a b"], "'a b' cannot be a run id"),
        (["run", "two.py"], "two.py has several agents: first, second; name one, as two.py:first"),
        (["run", "none.py"], "none.py has no agent"),
        (
            ["run", "broken.py"],
            "broken.py cannot be loaded: ZeroDivisionError: division by zero, at broken.py:2",
        ),
        (["run", "leaving.py"], "leaving.py cannot be loaded: SystemExit"),
        (["run", "typo.py"], "the graph has 1 problem"),
        (["list", "--url", "mongo://here"], "its scheme is not known"),
        (["server", "--url", "redis://localhost"], "graphflow server serves embedded:// only"),
        (["show", "a b"], "'a b' cannot be a run id"),
        (["resume", "a b"], "'a b' cannot be a run id"),
        (["cancel", "a b"], "'a b' cannot be a run id"),
    ],
)
def test_wrong_usage_is_said_in_a_sentence_with_exit_code_2(
    tmp_path: Path, words: list[str], said: str
) -> None:
    doubles_file(tmp_path)
    (tmp_path / "two.py").write_text("from graphflow import Agent\nfirst = Agent()\nsecond = Agent()\n")
    (tmp_path / "none.py").write_text("agent = None\n")
    (tmp_path / "broken.py").write_text("ratio = 1\nratio / 0\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "typo.py").write_text(
        "from graphflow import Agent\nagent = Agent()\n@agent.node\ndef last(chunk): ...\n"
    )

    refused = graphflow(tmp_path, *words)

    assert refused.returncode == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""
    assert not (tmp_path / ".graphflow").exists()


@pytest.mark.parametrize("words", [["run", "doubles.py"], ["demo"], ["list"], ["show", "@last"]])
def test_unreachable_redis_ends_the_command_within_five_seconds(tmp_path: Path, words: list[str]) -> None:
    doubles_file(tmp_path)
    began = time.monotonic()
    graphflow(tmp_path, "show", "@last", is_forked=False)
    without_redis = time.monotonic() - began
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"redis://user:secret@127.0.0.1:{closed.getsockname()[1]}/0"
        began = time.monotonic()

        refused = graphflow(tmp_path, *words, "--url", url, is_forked=False)

    assert time.monotonic() - began < 5 + 4 * without_redis
    assert refused.returncode == 5
    assert "cannot reach Redis at redis://***@127.0.0.1" in refused.stderr
    assert "--url embedded://" in refused.stderr
    assert "secret" not in refused.stderr + refused.stdout
    assert "Traceback" not in refused.stderr


def test_params_of_the_command_line_win_over_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text(json.dumps({"count": 1, "kept": [1]}))

    params = read_params(file, ["count=2", "text=plain words", "flag=true", 'quoted="3"', "equation=a=b"])

    assert params == {
        "count": 2,
        "kept": [1],
        "text": "plain words",
        "flag": True,
        "quoted": "3",
        "equation": "a=b",
    }


def test_params_file_must_hold_an_object(tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text("[1]")

    with pytest.raises(typer.BadParameter, match="holds no JSON object"):
        read_params(file, [])


def test_resume_command_repeats_the_command_with_its_run_id() -> None:
    words = ["run", "my doubles.py", "--param", "n=3"]

    assert resume_command(words, "doubles-1") == "graphflow run 'my doubles.py' --param n=3 --id doubles-1"
    assert resume_command([*words, "--id", "own"], "own").endswith("--param n=3 --id own")
    assert "secret" not in resume_command(["demo", "--url", "redis://me:secret@host"], "demo-1")


def test_last_frame_is_that_of_the_users_code() -> None:
    try:
        json.loads("{")
    except ValueError as error:
        import traceback

        text = "".join(traceback.format_tb(error.__traceback__))

    frame = last_user_frame(text)

    assert frame is not None
    assert Path(__file__).name in frame
    assert frame.endswith('in test_last_frame_is_that_of_the_users_code: json.loads("{")')


def test_a_traceback_without_user_code_has_no_last_frame() -> None:
    assert last_user_frame("") is None
    assert last_user_frame(f'  File "{json.__file__}", line 1, in loads\n    pass\n') is None
