"""Whose a run is: that of the agent in the same variable of the same module, by whichever name the module was loaded."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from graphflow import Agent, AgentMismatch, Task
from graphflow.graph.tasks import RunStatus
from tests import programs
from tests.acceptance.command_line import PATIENCE_SECONDS, environment, graphflow
from tests.acceptance.support import client
from tests.helpers import run
from tests.servers import RealServer

PAIR = """
from graphflow import Agent, RedisCache

first = Agent(cache=RedisCache({url!r}), {settings})
second = Agent(cache=RedisCache({url!r}), {settings})

@first.node(name="work")
async def work_of_first(cache):
    await cache.wait_for_signal("go")
    return "first"

@second.node(name="work")
async def work_of_second(cache):
    await cache.wait_for_signal("go")
    return "second"
"""
TASK = Task(type="pair")


class Files:
    """Modules that are loaded from files of a folder, as programs would have them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.names: list[str] = []

    def load(self, place: str = "pair.py", source: str = PAIR, settings: str = "") -> ModuleType:
        file = self.folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source.format(url=self.url, settings=settings))
        name = f"gf_whose_{len(self.names)}_{self.folder.name}"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        self.names.append(name)
        spec.loader.exec_module(module)
        return module

    def forget(self) -> None:
        """As if another process went on."""
        for name in self.names:
            sys.modules.pop(name, None)


@pytest.fixture
def files(redis_server: RealServer, tmp_path: Path) -> Iterator[Files]:
    found = Files(tmp_path, redis_server.url)
    yield found
    found.forget()


async def suspend(agent: Agent, run_id: str) -> None:
    outcome = await agent.run_task(TASK, run_id=run_id)
    assert outcome.status is RunStatus.SUSPENDED
    await agent.signal(run_id, "go")


@pytest.mark.parametrize("settings", ["", "name='pair-of-one-name'"], ids=["unnamed", "named"])
def test_recover_leaves_the_runs_of_another_agent_of_the_same_file(
    files: Files, tmp_path: Path, settings: str
) -> None:
    pair, ours, others = files.load(settings=settings), f"{tmp_path.name}-1", f"{tmp_path.name}-2"

    async def main() -> None:
        await suspend(pair.first, ours)
        await suspend(pair.second, others)

        assert {each.run_id: each["work"] for each in await pair.first.recover()} == {ours: "first"}
        assert {each.run_id: each["work"] for each in await pair.second.recover()} == {others: "second"}

    run(main())


def test_one_run_id_in_two_agents_of_a_file_is_refused(files: Files, tmp_path: Path) -> None:
    pair, run_id = files.load(), tmp_path.name

    async def main() -> None:
        await suspend(pair.first, run_id)

        for is_over in (False, True):
            with pytest.raises(
                AgentMismatch, match=r"belongs to agent pair \(.*pair.py:first\), not to pair"
            ):
                await pair.second.run_task(TASK, run_id=run_id)
            with pytest.raises(AgentMismatch):
                await pair.second.resume(run_id)
            if not is_over:
                assert (await pair.first.run_task(TASK, run_id=run_id))["work"] == "first"

    run(main())


def test_one_id_for_the_forks_of_two_agents_is_refused(files: Files, tmp_path: Path) -> None:
    pair, run_id, fork = files.load(), f"{tmp_path.name}-1", f"{tmp_path.name}-2"

    async def main() -> None:
        await suspend(pair.first, run_id)
        await pair.first.fork(run_id, run_id=fork)

        with pytest.raises(AgentMismatch):
            await pair.second.fork(run_id, run_id=fork)

    run(main())


def test_agents_of_files_of_one_name_in_two_folders_are_two(files: Files, tmp_path: Path) -> None:
    left, right, run_id = files.load("left/main.py"), files.load("right/main.py"), tmp_path.name

    async def main() -> None:
        await suspend(left.first, run_id)

        assert await right.first.recover() == []
        with pytest.raises(AgentMismatch):
            await right.first.run_task(TASK, run_id=run_id)
        assert len(await left.first.recover()) == 1

    run(main())


@pytest.mark.parametrize(
    ("settings", "is_gone"), [("", True), ("name='orders'", False)], ids=["moved", "named, in a new folder"]
)
def test_runs_of_an_agent_whose_file_lies_elsewhere_now_are_found(
    files: Files, tmp_path: Path, settings: str, is_gone: bool
) -> None:
    before, run_id = files.load("releases/1/main.py", settings=settings), tmp_path.name

    async def main() -> None:
        await suspend(before.first, run_id)
        files.forget()
        if is_gone:
            (tmp_path / "releases/1/main.py").unlink()
        now = files.load("releases/2/main.py", settings=settings)

        assert [outcome.run_id for outcome in await now.first.recover()] == [run_id]

    run(main())


def test_runs_of_a_variable_that_is_gone_are_named_and_go_on_when_that_is_accepted(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, run_id = files.load(), tmp_path.name

    async def main() -> None:
        await suspend(before.first, run_id)
        files.forget()
        now = files.load(source=PAIR.replace("first", "renamed"))

        assert await now.renamed.recover() == []
        assert (await now.renamed.resume(run_id, accept_changes=True))["work"] == "renamed"

    with caplog.at_level(logging.WARNING, "graphflow"):
        run(main())
    assert f"run {run_id} is left alone: it belongs to another agent named pair, at " in caplog.text


def test_run_that_says_nothing_of_its_code_belongs_to_the_agent_of_its_name(
    files: Files, tmp_path: Path
) -> None:
    """As runs of agents that are no variables, and of earlier versions."""
    pair, run_id = files.load(), tmp_path.name

    async def main() -> None:
        await suspend(pair.first, run_id)
        with client(files.url) as connection:
            connection.hdel(f"gf:run:{{{run_id}}}", "code")

        assert [outcome.run_id for outcome in await pair.second.recover()] == [run_id]

    run(main())


# The same code as a file, as a module, as what is run

FLOW = """
import sys
from graphflow import Agent, Task
from .words import ANSWER

agent = Agent()

@agent.node
async def ask(cache):
    return [ANSWER, await cache.wait_for_signal("go")]

@agent.node
def finish(ask, task):
    if task.params.get("bad"):
        raise LookupError("finish is broken")
    return ask

if __name__ == "__main__":
    if sys.argv[1:]:
        agent.run_task_sync(Task(type="ask", params={"bad": "bad" in sys.argv}), run_id=sys.argv[1])
    else:
        import asyncio
        print(*(outcome.run_id for outcome in asyncio.run(agent.recover())))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, redis_server: RealServer) -> Path:
    root = tmp_path_factory.mktemp("packages")
    (root / "parcel" / "inner").mkdir(parents=True)
    for folder in (root / "parcel", root / "parcel" / "inner"):
        (folder / "__init__.py").touch()
        (folder / "words.py").write_text("ANSWER = 'hello'\n")
        (folder / "flow.py").write_text(FLOW)
        (folder / "__main__.py").write_text(FLOW)
    return root


STARTS = {
    "module": ("-m", "parcel.flow"),
    "package": ("-m", "parcel"),
    "inner package": ("-m", "parcel.inner"),
    "file": ("-m", "graphflow", "run", "parcel/flow.py", "--id"),
    "command with module": ("-m", "graphflow", "run", "parcel.flow", "--id"),
}


def start(folder: Path, url: str, *words: str) -> str:
    ended = programs.run(
        words, cwd=folder, env=environment({"GRAPHFLOW_REDIS_URL": url}), timeout=PATIENCE_SECONDS
    )
    assert ended.returncode in (0, 4), ended.stderr
    return str(ended.stdout)


@pytest.mark.parametrize("words", STARTS.values(), ids=STARTS)
def test_commands_find_the_agent_of_a_run_however_its_code_was_started(
    package: Path, redis_server: RealServer, words: tuple[str, ...]
) -> None:
    run_id = f"parcel-{list(STARTS.values()).index(words)}"
    start(package, redis_server.url, *words, run_id)

    signalled = graphflow(
        package, "signal", run_id, "go", '"now"', env={"GRAPHFLOW_REDIS_URL": redis_server.url}
    )

    assert signalled.returncode == 0, signalled.stderr
    assert '["hello", "now"]' in signalled.stdout


FORMS = [STARTS["module"], STARTS["file"], STARTS["command with module"]]


@pytest.mark.parametrize("words", FORMS, ids=" ".join)
def test_run_of_a_file_is_recovered_by_the_module_that_it_is_and_the_other_way_round(
    package: Path, redis_server: RealServer, words: tuple[str, ...]
) -> None:
    run_id = f"parcel-recovered-{FORMS.index(words)}"
    is_file = words is STARTS["file"]
    start(package, redis_server.url, *words, run_id)
    env = {"GRAPHFLOW_REDIS_URL": redis_server.url}
    graphflow(package, "signal", run_id, "go", "--no-run", env=env)

    if is_file:
        found = start(package, redis_server.url, "-m", "parcel.flow")
    else:
        found = graphflow(package, "run", "parcel/flow.py", "--recover", env=env).stdout

    assert run_id in found


def test_failed_run_of_a_package_is_retried_and_an_open_one_cancelled(
    package: Path, redis_server: RealServer
) -> None:
    env = {"GRAPHFLOW_REDIS_URL": redis_server.url}
    start(package, redis_server.url, "-m", "parcel", "parcel-bad", "bad")
    graphflow(package, "signal", "parcel-bad", "go", env=env)
    start(package, redis_server.url, "-m", "parcel", "parcel-open")

    retried = graphflow(package, "retry", "parcel-bad", env=env)
    cancelled = graphflow(package, "cancel", "parcel-open", env=env)

    assert "LookupError: finish is broken" in retried.stdout, retried.stderr
    assert cancelled.returncode == 0


def test_packages_outside_of_the_folders_are_not_loaded_for_a_file_inside(
    package: Path, tmp_path: Path, redis_server: RealServer
) -> None:
    """The file is one of the working folder; the package around that is not."""
    home = tmp_path / "outer" / "home"
    home.mkdir(parents=True)
    (home.parent / "__init__.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'mark')!r}).touch()"
    )
    (home / "__init__.py").touch()
    (home / "words.py").write_text("ANSWER = 'hello'\n")
    (home / "flow.py").write_text(FLOW)
    start(package, redis_server.url, "-m", "parcel.flow", "parcel-claimed")
    with client(redis_server.url) as connection:
        connection.hset("gf:run:{parcel-claimed}", "code", f"{home}/flow.py:agent")

    refused = graphflow(home, "resume", "parcel-claimed", env={"GRAPHFLOW_REDIS_URL": redis_server.url})

    assert refused.returncode == 2
    assert "attempted relative import" in refused.stderr
    assert not (tmp_path / "mark").exists()
