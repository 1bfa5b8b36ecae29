"""Code that a run names is loaded if it lies in a folder of the command's own or is named by its user; else not a line of it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from graphflow.agent import Agent
from graphflow.cli.loading import load_agent_of
from graphflow.graph.tasks import RunStatus, Task
from graphflow.ids import RunId
from graphflow.server.address import parse_address
from graphflow.store.contract import RunHead

CODE = "from pathlib import Path\nPath({mark!r}).touch()\nfrom graphflow import Agent\nagent = Agent()\n"


class Folders:
    """`home`, the working folder; `store`, which an embedded store serves; `elsewhere`, on Python's path. All have code,
    which leaves a mark."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home, self.store, self.elsewhere = root / "home", root / "store", root / "elsewhere"
        self.mark = root / "mark"
        for folder in (self.home / "sub", self.store, self.elsewhere):
            folder.mkdir(parents=True)
        (self.home / "link.py").symlink_to(self.elsewhere / "gf_probe.py")
        (self.home / "gf_linked").symlink_to(self.elsewhere, target_is_directory=True)
        (self.home / "loop.py").symlink_to("loop.py")
        self.write("elsewhere", "gf_probe.py", "gf_package/__init__.py", "gf_package/inner.py")

    def write(self, folder: str, *names: str) -> None:
        for name in names:
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(CODE.format(mark=str(self.mark)))

    def load(self, code: str, url: str = "redis://localhost") -> Agent:
        head = RunHead(
            id=RunId("r"),
            status=RunStatus.EXECUTING,
            task=Task(type="t"),
            plan_hash="",
            agent="",
            code=code.format(root=self.root),
            revision=0,
            created=0,
            started=0,
            finished=0,
            owner="",
            progress="",
            error="",
            held=(),
        )
        return load_agent_of(head, None, parse_address(url), command="graphflow resume r")

    def refusal(self, code: str, url: str = "redis://localhost") -> str:
        with pytest.raises(typer.BadParameter) as caught:
            self.load(code, url)
        return caught.value.message


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folders]:
    made = Folders(tmp_path.resolve())
    known = set(sys.modules)
    monkeypatch.chdir(made.home)
    monkeypatch.setattr(sys, "path", [str(made.elsewhere), *sys.path])
    importlib.invalidate_caches()
    yield made
    for name in set(sys.modules) - known:
        if name.startswith("gf_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    "code",
    [
        "{root}/elsewhere/gf_probe.py:agent",
        "../elsewhere/gf_probe.py:agent",
        "sub/../../elsewhere/gf_probe.py:agent",
        "link.py:agent",
        "gf_linked/gf_probe.py:agent",
        "gf_linked.gf_probe:agent",
        "gf_linked.gf_package.inner:agent",
        "gf_package.inner:agent",
        "gf_package:agent",
        "gf_probe:agent",
        "{root}/elsewhere/nowhere.py:agent",
        # Nothing of these is executed either, wherever the command works.
        "this:agent",
        "antigravity:agent",
        "sys:agent",
        "zipimport:agent",
        "__main__:agent",
        "graphflow.cli.main:app",
        "xml.dom.minidom:agent",
    ],
)
def test_what_lies_elsewhere_is_not_loaded(folders: Folders, code: str) -> None:
    loaded = set(sys.modules)

    refusal = folders.refusal(code)

    assert f"run r says that its agent is {code.format(root=folders.root)!r}" in refusal
    assert f"which does not lie below {folders.home}, nor is it named in pyproject.toml" in refusal
    assert "graphflow resume r --agent FILE[:AGENT]" in refusal
    assert not folders.mark.exists()
    assert [name for name in set(sys.modules) - loaded if not name.startswith("gf_linked")] == []


def test_link_that_leads_in_a_circle_is_refused_too(folders: Folders) -> None:
    """Python 3.13 takes such a link for a file that is not there, those before it for an error."""
    assert "graphflow resume r --agent FILE[:AGENT]" in folders.refusal("loop.py:agent")


@pytest.mark.parametrize(
    "code",
    [
        ":",
        ":agent",
        "gf_probe",
        "gf_probe.py:",
        "gf_probe.py:agent()",
        "..gf_package.inner:agent",
        "gf_package..inner:agent",
        "gf package:agent",
        "elsewhere/gf_probe:agent",
        "\x1b[2Jgf_probe.py:agent",
        "gf_probe\x00.py:agent",
        "gf_probe\udcff.py:agent",
        "x" * 100_000 + "\n:agent",
    ],
)
def test_what_can_name_no_agent_is_quoted_as_one_line_and_not_loaded(folders: Folders, code: str) -> None:
    refusal = folders.refusal(code)

    assert "is neither FILE.py:AGENT nor package.module:AGENT" in refusal
    assert refusal.isprintable()
    assert len(refusal) < 1_000
    assert not folders.mark.exists()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("gf_own.py", "{root}/home/gf_own.py:agent"),
        ("gf_own.py", "gf_own.py:agent"),
        ("sub/gf_own.py", "sub/gf_own.py:agent"),
        ("gf_flows/__init__.py", "gf_flows:agent"),
        ("gf_flows/deep/own.py", "gf_flows.deep.own:agent"),
    ],
)
def test_what_lies_below_the_working_folder_is_loaded(folders: Folders, name: str, code: str) -> None:
    folders.write("home", name)

    assert isinstance(folders.load(code), Agent)
    assert folders.mark.exists()


@pytest.mark.parametrize("code", ["gf_beside.py:agent", "gf_beside:agent", "{root}/store/gf_beside.py:agent"])
def test_what_lies_beside_an_embedded_store_is_loaded_from_any_folder(folders: Folders, code: str) -> None:
    folders.write("store", "gf_beside.py")

    assert isinstance(folders.load(code, f"embedded://{folders.store}"), Agent)


def test_what_lies_beside_another_store_is_not(folders: Folders) -> None:
    folders.write("store", "gf_beside.py")

    refusal = folders.refusal("{root}/store/gf_beside.py:agent", f"embedded://{folders.root}/third")

    assert f"which does not lie below {folders.home} nor below {folders.root}/third" in refusal
    assert not folders.mark.exists()


@pytest.mark.parametrize("folder", [".venv/lib/python3/site-packages", "dist-packages", ".graphflow"])
def test_what_was_installed_or_is_the_stores_lies_outside_wherever_it_is(
    folders: Folders, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.write("home", f"{folder}/gf_installed.py")
    monkeypatch.syspath_prepend(folders.home / folder)

    folders.refusal("gf_installed:agent")
    folders.refusal(f"{folder}/gf_installed.py:agent")

    assert not folders.mark.exists()


def test_environment_of_python_lies_outside_with_all_that_is_in_it(folders: Folders) -> None:
    folders.write("home", "env/bin/gf_script.py")
    (folders.home / "env" / "pyvenv.cfg").touch()

    folders.refusal("env/bin/gf_script.py:agent")

    assert not folders.mark.exists()


def test_a_module_whose_package_is_another_that_is_loaded_already_is_not_looked_for_there(
    folders: Folders,
) -> None:
    folders.write("home", "email/gf_mine.py")

    folders.refusal("email.gf_mine:agent")

    assert not folders.mark.exists()


def test_package_that_lies_inside_does_not_vouch_for_what_it_leads_to(folders: Folders) -> None:
    (folders.home / "gf_door").mkdir()
    (folders.home / "gf_door" / "__init__.py").write_text(f"__path__.insert(0, {str(folders.elsewhere)!r})\n")

    folders.refusal("gf_door.gf_probe:agent")

    assert not folders.mark.exists()


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("../elsewhere/gf_probe.py:agent", "{root}/elsewhere/gf_probe.py:agent"),
        ("../elsewhere/gf_probe.py", "{root}/elsewhere/gf_probe.py:agent"),
        ("{root}/elsewhere/gf_probe.py", "{root}/elsewhere/gf_probe.py:agent"),
        ("link.py", "{root}/elsewhere/gf_probe.py:agent"),
        ("gf_package.inner:agent", "gf_package.inner:agent"),
        ("gf_package.inner", "gf_package.inner:agent"),
    ],
)
@pytest.mark.parametrize("working_folder", [".", "sub"])
def test_pyproject_of_the_folder_or_the_nearest_above_names_what_may_be_loaded(
    folders: Folders, entry: str, code: str, working_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry.format(root=folders.root)
    (folders.home / "pyproject.toml").write_text(f"[tool.graphflow]\nagents = [{entry!r}]\n")
    monkeypatch.chdir(folders.home / working_folder)

    assert isinstance(folders.load(code), Agent)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[tool.graphflow]\nagents = []\n",
        "[tool.graphflow]\nagents = ['../elsewhere/gf_probe.py:other']\n",
        "[tool.graphflow]\nagents = ['../elsewhere', 'gf_package', 'gf_package.inner']\n",
    ],
)
def test_what_pyproject_does_not_name_stays_outside(folders: Folders, text: str) -> None:
    (folders.home / "pyproject.toml").write_text(text)

    folders.refusal("{root}/elsewhere/gf_probe.py:agent")

    assert not folders.mark.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.graphflow\n", "cannot be read"),
        ("tool = 1\n", "cannot be read"),
        ("[tool.graphflow]\nagents = 'x.py'\n", "is no list of texts"),
        ("[tool.graphflow]\nagents = [1]\n", "is no list of texts"),
    ],
)
def test_pyproject_that_cannot_be_read_is_named(folders: Folders, text: str, said: str) -> None:
    (folders.home / "pyproject.toml").write_text(text)

    refusal = folders.refusal("gf_probe:agent")

    assert f"{folders.home}/pyproject.toml" in refusal
    assert said in refusal


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_pyproject_above_that_belongs_to_somebody_else_is_not_believed(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = folders.home / "pyproject.toml"
    project.write_text("[tool.graphflow]\nagents = ['../elsewhere/gf_probe.py']\n")
    os.chown(project, 65534, 65534)
    monkeypatch.chdir(folders.home / "sub")

    folders.refusal("{root}/elsewhere/gf_probe.py:agent")

    assert not folders.mark.exists()


def test_agent_of_the_demo_is_the_commands_own(folders: Folders) -> None:
    assert folders.load("graphflow.cli.demo:agent").name == "demo"
