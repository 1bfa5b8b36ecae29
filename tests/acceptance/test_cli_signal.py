"""`graphflow signal` as people use it: answers a run whose process has long ended, and goes on with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.command_line import graphflow, run_id_of, started, wait_for_field

ASKS = """
from pydantic import BaseModel

from graphflow import Agent, AnswerRefused

agent = Agent(lease_seconds=0.6)

class Approval(BaseModel):
    approved: bool
    by: str = "Ada"

@agent.node
async def asks(cache):
    approval = await cache.wait_for_signal("approve", Approval, timeout=86_400, question="May it be sent?")
    if approval.by == "Bob":
        raise AnswerRefused("only Ada may approve")
    return approval.approved

@agent.node
async def asks_again(asks, cache):
    return [asks, await cache.wait_for_signal("second")]

@agent.node
async def works(task):
    import asyncio
    await asyncio.sleep(task.params.get("seconds", 0))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "asks.py").write_text(ASKS)
    return tmp_path


def test_a_run_is_answered_and_driven_to_its_next_wait_and_its_end(folder: Path) -> None:
    first = graphflow(folder, "run", "asks.py", "--id", "letter")

    assert first.returncode == 4, first.stdout + first.stderr
    assert "asks waits for the signal 'approve'" in first.stdout
    assert "graphflow signal letter approve JSON" in first.stdout

    second = graphflow(folder, "signal", "letter", "approve", '{"approved": true}')

    assert second.returncode == 4, second.stdout + second.stderr
    assert run_id_of(second.stdout.replace(": signal approve is stored", "")) == "letter"
    assert "asks_again waits for the signal 'second'" in second.stdout

    third = graphflow(folder, "signal", "@last", "second", "[1, 2]", "--json")

    assert third.returncode == 0, third.stdout + third.stderr
    outcome = json.loads(third.stdout)
    assert outcome["status"] == "complete"
    assert outcome["result"]["asks_again"] == [True, [1, 2]]


def test_no_run_only_stores(folder: Path) -> None:
    graphflow(folder, "run", "asks.py", "--id", "letter")

    stored = graphflow(folder, "signal", "letter", "approve", '{"approved": false}', "--no-run")
    shown = graphflow(folder, "show", "letter")
    resumed = graphflow(folder, "resume", "letter")

    assert stored.returncode == 0, stored.stderr
    assert stored.stdout == "run letter: signal approve is stored\n"
    assert "suspended" in shown.stdout
    assert "graphflow signal letter NAME JSON" in shown.stdout
    assert resumed.returncode == 4, resumed.stdout
    assert "asks_again waits" in resumed.stdout


def test_a_signal_to_a_run_that_is_driven_is_taken_by_its_driver(folder: Path) -> None:
    with started(folder, "run", "asks.py", "--id", "driven", "-p", "seconds=3") as process:
        wait_for_field(folder, "gf:run:{driven}", "revision", 2)

        sent = graphflow(folder, "signal", "driven", "approve", '{"approved": true}')

        assert sent.returncode == 0, sent.stdout + sent.stderr
        assert "which drives the run, has taken it" in sent.stdout
        output, _ = process.communicate(timeout=30)
        assert "asks_again waits for the signal 'second'" in output
        assert process.returncode == 4


def test_answer_that_does_not_fit_is_told_field_by_field_and_not_sent(folder: Path) -> None:
    graphflow(folder, "run", "asks.py", "--id", "letter")

    for words in ((), ("--no-run",)):
        refused = graphflow(folder, "signal", "letter", "approve", '{"approved": "perhaps"}', *words)

        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "approved: 'perhaps' is not of type 'boolean'" in refused.stderr
    assert graphflow(folder, "signal", "letter", "approve", '{"approved": true}').returncode == 4


def test_question_and_refusal_are_shown_to_who_is_to_answer(folder: Path) -> None:
    graphflow(folder, "run", "asks.py", "--id", "letter")

    refused = graphflow(folder, "signal", "letter", "approve", '{"approved": true, "by": "Bob"}')
    shown = graphflow(folder, "show", "letter")
    listed = graphflow(folder, "list", "--waiting")

    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "the last answer was refused: only Ada may approve" in refused.stdout
    for line in (
        "question May it be sent?",
        "refused  only Ada may approve",
        "until    20",
        '"type":"boolean"',
    ):
        assert line in shown.stdout
    row = next(line for line in listed.stdout.splitlines() if line.startswith("letter"))
    assert row.split()[1:7] == ["asks", "approve", "May", "it", "be", "sent?"]
    assert row.endswith("only Ada may approve")
    graphflow(folder, "cancel", "letter")
    assert "waits for a signal" in graphflow(folder, "list", "--waiting").stdout


def test_name_that_nobody_waits_for_is_told_with_the_nearest(folder: Path) -> None:
    graphflow(folder, "run", "asks.py", "--id", "letter")

    stored = graphflow(folder, "signal", "letter", "aprove", "true", "--no-run")

    assert stored.returncode == 0, stored.stderr
    assert stored.stdout == (
        "run letter: signal aprove is stored\n"
        "the run waits for approve, not for aprove; it is kept for who will wait for it\n"
    )
    assert stored.stderr == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nothing-there", "approve"), 3, "no run 'nothing-there'"),
        (("letter", "approve", "{approved}"), 2, "is no JSON"),
        (("letter", "{braces}"), 2, "cannot be a signal"),
    ],
)
def test_mistakes_are_named(folder: Path, words: tuple[str, ...], code: int, said: str) -> None:
    graphflow(folder, "run", "asks.py", "--id", "letter")

    refused = graphflow(folder, "signal", *words)

    assert refused.returncode == code, refused.stdout + refused.stderr
    assert said in refused.stderr
