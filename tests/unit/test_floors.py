"""Imports go down the house only, and the package's front door names what it exports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import graphflow
import graphflow.graph

PACKAGE = Path(graphflow.__file__).parent

#: Floors from the ground up. A module may import from its own floor and those below.
FLOORS = [
    ["errors", "ids", "settings", "bounds", "failpoints", "clock", "expressions", "codec"],
    ["graph.tasks", "graph.modules", "graph.flow", "graph.nodes", "graph.cache", "graph.functions", "events"],
    ["engine.plan", "run", "requests"],
    [
        "engine.binding",
        "engine.compile",
        "engine.describe",
        "engine.differences",
        "engine.relations",
        "engine.topology",
        "engine.validate",
        "engine.sketch",
        "engine.explain",
        "engine.crashes",
        "engine.stragglers",
        "engine.draft",
        "engine.fold",
        "engine.readiness",
        "engine.ending",
        "engine.supervise",
        "engine.visits",
        "engine.items",
        "engine.advance",
        "engine.waiting",
    ],
    ["caches", "store", "executors"],
    ["engine"],
    ["builder", "result", "map_results", "origin", "agent", "testing"],
    ["cli", "__main__"],
]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def floor_of(module: str) -> int:
    best = max(
        ((len(name), floor) for floor, names in enumerate(FLOORS) for name in names if _covers(name, module)),
        default=None,
    )
    assert best is not None, f"{module} stands on no floor: add it to FLOORS"
    return best[1]


def _covers(name: str, module: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def imported_modules(path: Path) -> set[str]:
    """Modules of the package that the file imports at run time, at its top or inside functions."""
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only and node.module:
            if node.module == "graphflow":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("graphflow."):
                found.add(node.module.removeprefix("graphflow."))
    return found


def is_ours(imported: str) -> bool:
    place = PACKAGE / imported.replace(".", "/")
    return place.with_suffix(".py").exists() or place.is_dir()


def test_imports_go_down_the_floors_only() -> None:
    upward = []
    for path in PACKAGE.rglob("*.py"):
        if path.name == "__init__.py":
            continue
        module = module_name(path)
        upward += [
            f"{module} imports {imported}"
            for imported in imported_modules(path)
            if is_ours(imported) and floor_of(imported) > floor_of(module)
        ]

    assert upward == []


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


def test_importing_graphflow_imports_no_redis_and_no_terminal_library() -> None:
    code = (
        "import sys, graphflow; graphflow.Agent; "
        "heavy = {'redis', 'rich', 'typer', 'ray', 'httpx', 'aiohttp', 'fakeredis'} & set(sys.modules); "
        "print(sorted(heavy))"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"
