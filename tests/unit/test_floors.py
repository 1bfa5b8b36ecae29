"""Imports go down the house only, and the package's front door names what it exports."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import graphflow
import graphflow.graph
from tests import house

PACKAGE = Path(graphflow.__file__).parent
ROOT = Path(__file__).parents[2]
#: What users are shown to import from.
SHOWN = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "walkthroughs").iterdir()),
    ROOT / "tests" / "parallel_agent.py",
]


def test_every_file_stands_on_a_floor() -> None:
    assert [name for name in house.modules_of(PACKAGE) if house.floor_of(name) is None] == []


def test_every_folder_says_where_it_stands() -> None:
    assert house.folders_without_floor(PACKAGE) == []


def test_pure_floors_read_no_clock_draw_no_number_and_do_no_io() -> None:
    assert house.impure(PACKAGE) == []


def test_what_is_named_by_a_string_is_imported_where_there_is_a_reason() -> None:
    assert house.loaders(PACKAGE) == house.LOADERS.keys()


def test_imports_go_down_the_floors_only_also_those_for_types() -> None:
    assert house.arrows_up(house.imports_of(PACKAGE, types=True)) == []


def test_no_files_import_each_other_not_even_for_types() -> None:
    assert house.circles(house.imports_of(PACKAGE, types=True)) == []


def test_no_folder_is_crowded_and_no_class_has_too_many_methods() -> None:
    large = {name for name, methods in house.classes(PACKAGE).items() if methods > 35}

    assert max(house.flat_folders(PACKAGE).values()) <= 26
    assert large <= {"agent.Agent", "state.transaction.Transaction"}


def test_item_of_a_map_goes_one_way_through_the_engine() -> None:
    """What it comes to is handed up once, by whoever ran it to whoever drives."""
    _, up, _ = house.way_of_an_item(PACKAGE)

    assert up == ["engine.slots calls Scheduler._ended of engine.scheduler"]


@pytest.mark.parametrize("shown", SHOWN, ids=[path.name for path in SHOWN])
def test_every_import_that_users_are_shown_works(shown: Path) -> None:
    text = shown.read_text()
    lines = re.findall(r"from (graphflow[\w.]*) import (\([^)]*\)|[\w, ]+)", text)
    for module, names in lines:
        home = importlib.import_module(module)
        for name in re.findall(r"\w+", names.replace(" as ", ",")):
            assert hasattr(home, name), f"{shown.name}: from {module} import {name}"


def test_names_of_asimov_are_where_its_programs_look_for_them() -> None:
    for module, name in (
        ("graphflow.graph", "Agent"),
        ("graphflow.graph.tasks", "Task"),
        ("graphflow.caches.redis_cache", "RedisCache"),
    ):
        assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("door", [graphflow, graphflow.graph])
def test_every_exported_name_can_be_imported_and_no_other(door: ModuleType) -> None:
    for name in door.__all__:
        assert getattr(door, name) is not None

    assert len(set(door.__all__)) == len(door.__all__)
    with pytest.raises(AttributeError, match="Agnet"):
        _ = door.Agnet


def test_type_checkers_are_told_of_every_exported_name() -> None:
    for door in (graphflow, graphflow.graph):
        assert door.__file__ is not None
        told = {
            alias.name
            for node in ast.walk(ast.parse(Path(door.__file__).read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("graphflow.")
            for alias in node.names
        }

        assert told == set(door.__all__)


def test_front_door_has_what_the_inner_one_has() -> None:
    assert set(graphflow.graph.__all__) - set(graphflow.__all__) == {"FunctionModule"}


def test_map_for_readers_names_files_that_are_there() -> None:
    assert graphflow.__doc__ is not None
    named = re.findall(r"^    (\S+)", graphflow.__doc__, re.MULTILINE)

    assert len(named) >= 6
    assert [name for name in named if not (PACKAGE / name).exists()] == []


def test_importing_graphflow_imports_no_redis_no_terminal_library_and_nothing_for_tests() -> None:
    code = (
        "import sys, graphflow; graphflow.Agent; "
        "heavy = {'redis', 'rich', 'typer', 'ray', 'httpx', 'aiohttp', 'fakeredis', 'jsonschema', 'graphflow.testing'} & set(sys.modules); "
        "print(sorted(heavy))"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"
