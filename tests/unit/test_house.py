"""What the floors do not permit is seen however it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import house

UP = [
    ("import graphflow.engine.drive", "engine.drive"),
    ("import graphflow.engine.drive as d", "engine.drive"),
    ("def late():\n    import graphflow.engine.drive", "engine.drive"),
    ("from graphflow.engine import drive", "engine.drive"),
    ("from graphflow.engine.drive import Drive", "engine.drive"),
    ("from ..engine.drive import Drive", "engine.drive"),
    ("from ..engine import drive", "engine.drive"),
    ("from .. import engine", "engine.__init__"),
    ("import graphflow.engine", "engine.__init__"),
    ("from graphflow import cli", "cli.__init__"),
    ("import graphflow", "__init__"),
    ("from graphflow import Agent", "__init__"),
    ("from graphflow import *", "__init__"),
    ("from graphflow.graph import Agent", "graph.__init__"),
    ("from ..graph import Agent", "graph.__init__"),
    ("if TYPE_CHECKING:\n    import graphflow.engine.drive", "engine.drive"),
]


def package(tmp_path: Path, **files: str) -> Path:
    """A made-up package; `engine__drive` is the file engine/drive.py."""
    made = tmp_path / "graphflow"
    names = ["", "rules.", "engine.", "engine.maps.", "graph.", "cli."]
    texts = {f"{name}__init__": "" for name in names} | {"engine.drive": "", "errors": ""}
    texts |= {name.replace("__", "."): text for name, text in files.items()}
    for name, text in texts.items():
        path = made / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return made


def write(made: Path, file: str, text: str) -> None:
    path = made / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(("text", "reached"), UP)
def test_import_of_a_higher_floor_is_seen_however_it_is_written(
    tmp_path: Path, text: str, reached: str
) -> None:
    made = package(tmp_path, rules__visits=text)

    assert house.arrows_up(house.imports_of(made, types=True)) == [f"rules.visits imports {reached}"]


@pytest.mark.parametrize("text", ["import graphflow.cli", "from ..cli import main", "from .. import cli"])
def test_import_in_the_file_of_a_folder_itself_is_seen(tmp_path: Path, text: str) -> None:
    made = package(tmp_path, cli__main="")
    write(made, "rules/__init__.py", text)

    [arrow] = house.arrows_up(house.imports_of(made, types=True))

    assert arrow.startswith("rules.__init__ imports cli.")


def test_import_of_the_ground_is_no_arrow_up_however_it_is_written(tmp_path: Path) -> None:
    text = "import graphflow.errors\nfrom graphflow import errors\nfrom .. import errors\nfrom ..errors import A\nimport redis"
    made = package(tmp_path, rules__visits=text)

    assert house.imports_of(made, types=True)["rules.visits"] == {"errors"}
    assert house.arrows_up(house.imports_of(made, types=True)) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("import graphflow.rules.fold", "def late():\n    import graphflow.rules.visits"),
        ("from . import fold", "from .visits import A"),
        ("from graphflow.rules.fold import A", "import graphflow.rules.visits as v"),
    ],
)
def test_circle_is_seen_however_its_imports_are_written(tmp_path: Path, one: str, other: str) -> None:
    made = package(tmp_path, rules__visits=one, rules__fold=other)

    assert house.circles(house.imports_of(made, types=True)) == [["rules.fold", "rules.visits"]]


def test_circle_through_what_a_folder_hands_on_is_seen(tmp_path: Path) -> None:
    made = package(tmp_path, rules__fold="from graphflow.rules import advance")
    write(made, "rules/__init__.py", "from graphflow.rules.fold import advance as advance")

    assert house.circles(house.imports_of(made, types=True)) == [["rules.__init__", "rules.fold"]]


def test_class_in_the_file_of_a_folder_itself_is_counted(tmp_path: Path) -> None:
    made = package(tmp_path)
    write(
        made, "rules/__init__.py", "class Large:\n" + "\n".join(f"    def m{n}(self): ..." for n in range(40))
    )

    assert house.classes(made) == {"rules.__init__.Large": 40}
    assert house.flat_folders(made)["rules"] == 1


@pytest.mark.parametrize("folder", ["extra", "engine/extra", "engine/maps/deep"])
def test_new_folder_has_no_floor_before_it_is_given_one(tmp_path: Path, folder: str) -> None:
    made = package(tmp_path)
    write(made, f"{folder}/__init__.py", "from graphflow import cli")

    assert house.folders_without_floor(made) == [folder.replace("/", ".")]


@pytest.mark.parametrize(
    "text",
    [
        "import importlib",
        "import importlib as i",
        "from importlib import import_module",
        "from importlib import import_module as load",
        "from importlib import util",
        "import importlib.util",
        "__import__('graphflow.cli')",
        "load = __import__",
    ],
)
def test_file_that_imports_by_a_string_is_seen(tmp_path: Path, text: str) -> None:
    made = package(tmp_path, rules__visits=text, rules__fold="import importlib.metadata")

    assert house.loaders(made) == {"rules.visits"}


@pytest.mark.parametrize(
    "text",
    [
        "import redis",
        "from redis.asyncio import Redis",
        "import time",
        "from time import monotonic",
        "def late():\n    import random",
        "import asyncio",
        "import os.path",
        "from graphflow import clock",
        "from graphflow.clock import now",
        "from ..clock import now",
    ],
)
def test_clock_dice_and_io_are_seen_on_a_pure_floor_alone(tmp_path: Path, text: str) -> None:
    made = package(tmp_path, clock="", rules__visits=text, engine__timers=text)

    [found] = house.impure(made)

    assert found.startswith("rules.visits imports ")


def test_wing_is_imported_by_the_files_that_are_named_for_it(tmp_path: Path) -> None:
    text = "from graphflow.engine.maps.driver import MapDriver"
    made = package(
        tmp_path,
        engine__maps__driver="import graphflow.engine.drive",
        engine__scheduler=text,
        engine__line=text,
        cli__main=text,
    )

    assert house.arrows_up(house.imports_of(made, types=True)) == ["engine.line imports engine.maps.driver"]
