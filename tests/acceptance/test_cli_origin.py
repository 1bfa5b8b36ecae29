"""Which code do commands load because a run says so? Whoever can write to the store can write where a run's agent is, so
looks load nothing, and what goes on with a run loads what lies in its folders or is named by the person who types."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.acceptance.command_line import environment, graphflow
from tests.servers import RealServer

RUNS = ("asks", "asks-too", "broken", "closed")

HOME = """
from graphflow import Agent, RedisCache, Task

agent = Agent()

@agent.node
async def first(task):
    if task.params.get("bad"):
        raise LookupError("first is broken")

@agent.node
async def second(first, cache):
    return await cache.wait_for_signal("go")

if __name__ == "__main__":
    for run_id in ("asks", "asks-too", "closed"):
        agent.run_task_sync(Task(type="asks"), run_id=run_id)
    agent.run_task_sync(Task(type="asks", params={"bad": True}), run_id="broken")
"""
PROBE = """
from pathlib import Path
Path({mark!r}).touch()
from graphflow import Agent
agent = Agent()
"""


class Place:
    """A working folder whose store somebody else can write to, and a folder elsewhere with code that leaves a mark."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.home, self.elsewhere = folder / "home", folder / "elsewhere"
        self.mark = folder / "mark"
        self.client = redis.Redis.from_url(url, decode_responses=True)
        for each in (self.home, self.elsewhere / "package"):
            each.mkdir(parents=True)
        (self.home / "agents.py").write_text(HOME)
        probe = PROBE.format(mark=str(self.mark))
        for name in ("probe.py", "probing.py", "package/__init__.py", "package/inner.py"):
            (self.elsewhere / name).write_text(probe)
        (self.home / "link.py").symlink_to(self.elsewhere / "probe.py")
        (self.home / "linked").symlink_to(self.elsewhere, target_is_directory=True)

    def graphflow(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = {"GRAPHFLOW_REDIS_URL": self.url, "PYTHONPATH": str(self.elsewhere)}
        return graphflow(self.home, *words, env=env)

    def claim(self, code: str) -> None:
        """Have all runs say that this is where their agent is."""
        for run_id in RUNS:
            self.client.hset(f"gf:run:{{{run_id}}}", "code", code)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with RealServer("current") as server:
        made = Place(tmp_path_factory.mktemp("origin"), server.url)
        program = [sys.executable, "agents.py"]
        subprocess.run(
            program, cwd=made.home, env=environment({"GRAPHFLOW_REDIS_URL": server.url}), check=True
        )
        yield made
        made.client.close()


@pytest.fixture(autouse=True)
def _without_mark(place: Place) -> None:
    place.mark.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("show", "asks"),
        ("show", "asks", "--why", "second"),
        ("gc",),
        ("doctor",),
        ("signal", "asks-too", "go", "1", "--no-run"),
        ("cancel", "closed"),
        ("delete", "closed"),
    ],
    ids=" ".join,
)
def test_looks_load_no_code(place: Place, words: tuple[str, ...]) -> None:
    place.claim(f"{place.elsewhere}/probe.py:agent")

    shown = place.graphflow(*words)

    assert shown.returncode in (0, 1) if words == ("doctor",) else shown.returncode == 0, shown.stderr
    assert not place.mark.exists()


ORIGINS = {
    "absolute path": "{elsewhere}/probe.py:agent",
    "link to a folder": "linked/probe.py:agent",
    "installed module": "package.inner:agent",
    "nothing that could be code": "\x1b[31m\u202e\x00;$(id)\n:agent",
}


@pytest.mark.parametrize("code", ORIGINS.values(), ids=ORIGINS)
def test_code_outside_of_the_folders_is_not_loaded_and_what_to_type_is_said(place: Place, code: str) -> None:
    code = code.format(elsewhere=place.elsewhere)
    place.claim(code)

    refused = place.graphflow("resume", "asks")

    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert not place.mark.exists()
    assert "graphflow resume asks --agent FILE[:AGENT]" in refused.stderr
    assert repr(code) in refused.stderr, "as the store has it, so that nothing of it reaches the terminal"
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("retry", "broken"), "graphflow retry broken --agent FILE[:AGENT]"),
        (("signal", "asks", "other"), "graphflow resume asks --agent FILE[:AGENT]"),
        (("run", "agents.py", "--recover"), ""),
    ],
    ids=["retry", "signal", "recover"],
)
def test_every_command_that_goes_on_with_runs_keeps_to_that(
    place: Place, words: tuple[str, ...], said: str
) -> None:
    place.claim(f"{place.elsewhere}/probe.py:agent")

    ended = place.graphflow(*words)

    # What was recovered may wait for its signal.
    assert ended.returncode in ([2] if said else [0, 4]), ended.stdout + ended.stderr
    assert said in ended.stderr
    assert not place.mark.exists()


def test_agent_option_and_pyproject_name_code_that_lies_elsewhere(place: Place) -> None:
    place.claim(f"{place.elsewhere}/probe.py:agent")
    project = place.home / "pyproject.toml"
    try:
        by_option = place.graphflow("resume", "asks", "--agent", str(place.elsewhere / "probe.py"))
        marked_by_option = place.mark.exists()
        place.mark.unlink(missing_ok=True)
        project.write_text('[tool.graphflow]\nagents = ["../elsewhere/probe.py:agent"]\n')
        by_project = place.graphflow("resume", "asks")
        marked_by_project = place.mark.exists()
    finally:
        project.unlink(missing_ok=True)

    assert marked_by_option
    assert marked_by_project
    for refused in (by_option, by_project):
        assert "the graph has 1 problem" in refused.stderr, "what was named was loaded, and is another graph"
