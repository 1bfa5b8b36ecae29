"""Commands that meet what no program wants to meet: each ends with a sentence and an exit code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.command_line import PATIENCE_SECONDS, command, doubles_file, environment, graphflow

#: A name of a file that is no UTF-8, as Python has it.
FOREIGN = os.fsdecode(b"caf\xe9")
ASKS = """
from graphflow import Agent
agent = Agent()

@agent.node
async def asks(cache):
    return await cache.wait_for_signal("go")
"""


def ended(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """A line of the shell, in which $GRAPHFLOW is the command."""
    return subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=environment({"GRAPHFLOW": " ".join((sys.executable, *command()))}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


@pytest.mark.parametrize(
    "line",
    [
        "$GRAPHFLOW list",
        "$GRAPHFLOW demo",
        "$GRAPHFLOW resume x",
        "$GRAPHFLOW run doubles.py",
    ],
)
def test_working_folder_that_was_removed_is_named(tmp_path: Path, line: str) -> None:
    result = ended(tmp_path, f"mkdir gone && cd gone && rmdir ../gone && {line}")

    assert result.returncode == 2
    assert re.search(
        r"there is no working folder|working folder is no longer there|no file doubles.py", result.stderr
    )
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("{ $GRAPHFLOW --help; echo $? > code; } | true; exit $(cat code)", 1, "nobody reads the output"),
        ("$GRAPHFLOW list > /dev/full", 1, "No space left on device; free some space"),
    ],
)
def test_output_that_cannot_be_written_is_said_once(tmp_path: Path, line: str, code: int, said: str) -> None:
    if "/dev/full" in line and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    # The reader is gone before anything is written.
    result = ended(tmp_path, line.replace("{ ", "{ sleep 0.2; "))

    assert (result.returncode, result.stderr) == (code, result.stderr)
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_reason_that_is_no_utf_8_is_refused_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "asks.py").write_text(ASKS)
    graphflow(tmp_path, "run", "asks.py", "--id", "r")

    refused = graphflow(tmp_path, "cancel", "r", "--reason", FOREIGN)

    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: cannot store 'reason': ")
    assert graphflow(tmp_path, "redis-cli", "hget", "gf:run:{r}", "status").stdout == "suspended\n"


def test_script_whose_path_is_no_utf_8_is_run_and_has_to_be_named_to_be_resumed(tmp_path: Path) -> None:
    shutil.move(doubles_file(tmp_path), tmp_path / f"{FOREIGN}.py")

    run = graphflow(tmp_path, "run", f"{FOREIGN}.py", "--id", "r")
    refused = graphflow(tmp_path, "resume", "r")
    resumed = graphflow(tmp_path, "resume", "r", "--agent", f"{FOREIGN}.py")

    assert run.returncode == 0, run.stderr
    assert refused.returncode == 2
    assert "run r does not say where its agent is; name it: graphflow resume r --agent" in refused.stderr
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("show", FOREIGN),
        ("run", f"{FOREIGN}.py"),
        ("run", "doubles.py", "--param", f"text={FOREIGN}"),
        ("signal", "r", FOREIGN),
        ("list", "--url", f"unix:///{FOREIGN}"),
    ],
)
def test_words_that_are_no_utf_8_are_wrong_usage(tmp_path: Path, words: tuple[str, ...]) -> None:
    doubles_file(tmp_path)

    refused = graphflow(tmp_path, *words)

    assert refused.returncode == 2, refused.stderr
    assert "Error: " in refused.stderr
    assert "Traceback" not in refused.stderr
