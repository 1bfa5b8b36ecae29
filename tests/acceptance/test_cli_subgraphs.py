"""The command line calls what is inside of a sub-graph by its path."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.command_line import graphflow

PROGRAM = """
from graphflow import Agent

inner = Agent(name="inner")


@inner.node
def plan():
    return 1


@inner.node
async def asks(cache, plan):
    return await cache.wait_for_signal("approve")


agent = Agent(name="outer")
agent.node(name="research")(inner)


@agent.node
def after(research):
    return research
"""


def test_commands_name_what_is_inside_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "nested.py").write_text(PROGRAM)

    first = graphflow(tmp_path, "run", "nested.py:agent", "--id", "inside")
    assert "graphflow signal inside research/approve JSON" in first.stdout + first.stderr
    shown = graphflow(tmp_path, "show", "inside").stdout
    assert "research/plan" in shown
    why = graphflow(tmp_path, "show", "inside", "--why", "research")
    assert "1 of 2 nodes inside have settled, research/asks is active" in why.stdout
    why = graphflow(tmp_path, "show", "inside", "--why", "research/asks")
    assert "research/asks waits for the signal 'research/approve'" in why.stdout
    signalled = graphflow(tmp_path, "signal", "inside", "research/approve", '"yes"')
    assert signalled.returncode == 0, signalled.stderr
    assert "complete" in graphflow(tmp_path, "list").stdout
