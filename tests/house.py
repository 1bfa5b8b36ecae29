"""How is the package built? Counts its files, functions, circles and arrows, and follows one item of a map through them.

    python -m tests.house [FOLDER]

FOLDER is that of the package (default: the one that is imported). A circle is a set of files that import each other,
imports for types alone included; `FLOORS` says which folders may import which. The way of an item is measured by
running a map of one item: files in which something is called for it, and calls that go up, into a file that imports the
caller's, directly or through others.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import graphflow

#: From the ground up. A file may import from its own floor and those below; a longer name goes before a shorter one.
FLOORS: list[list[str]] = [
    [
        "errors",
        "ids",
        "settings",
        "bounds",
        "failpoints",
        "clock",
        "beside_loop",
        "expressions",
        "codec",
        "values",
    ],
    ["graph", "events", "run", "inputs", "transition", "requests"],
    ["executors"],
    ["planning"],
    ["rules"],
    ["server"],
    ["state"],
    ["store"],
    ["engine"],
    ["entrance"],
    ["builder", "result", "map_results", "origin", "agent", "caches"],
    ["cli", "testing", "__main__"],
]

Imports = dict[str, set[str]]


def modules_of(package: Path) -> dict[str, Path]:
    """The files of the package by their dotted names in it, but for those that only hand names on."""
    found = {path.relative_to(package).with_suffix(""): path for path in sorted(package.rglob("*.py"))}
    return {".".join(name.parts): path for name, path in found.items() if name.name != "__init__"}


def imports_of(package: Path, *, types: bool) -> Imports:
    """Which files of the package each file imports, at its top or inside functions; those for `types` alone if asked."""
    modules = modules_of(package)
    return {name: _imported(path, modules, types=types) for name, path in modules.items()}


def _imported(path: Path, modules: dict[str, Path], *, types: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    left_out = set() if types else {id(node) for node in _for_types(tree)}
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in left_out or not node.module:
            continue
        if node.module.partition(".")[0] != "graphflow":
            continue
        base = node.module.removeprefix("graphflow").lstrip(".")
        names = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
        found |= {base, *names} & modules.keys()
    return found


def _for_types(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from ast.walk(node)


def circles(imports: Imports) -> list[list[str]]:
    """Sets of files that import each other."""
    reached = {name: _reached(imports, name) for name in imports}
    found = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in imports
        if name in reached[name]
    }
    return sorted(sorted(circle) for circle in found)


def _reached(imports: Imports, name: str) -> set[str]:
    found: set[str] = set()
    left = [name]
    while left:
        for other in imports[left.pop()] - found:
            found.add(other)
            left.append(other)
    return found


def floor_of(module: str) -> int | None:
    """The number of its floor; None if it stands on none."""
    fitting = [
        (len(name), number)
        for number, names in enumerate(FLOORS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    return max(fitting)[1] if fitting else None


def arrows_up(imports: Imports) -> list[str]:
    """Imports of a file that stands on a higher floor."""
    return [
        f"{name} imports {other}"
        for name, others in imports.items()
        for other in sorted(others)
        if (floor_of(other) or 0) > (floor_of(name) or 0)
    ]


def classes(package: Path) -> dict[str, int]:
    """Methods by class."""
    return {
        f"{name}.{node.name}": sum(
            isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body
        )
        for name, path in modules_of(package).items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }


def functions(package: Path) -> dict[str, int]:
    """Lines by function."""
    return {
        f"{name}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name, path in modules_of(package).items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def flat_folders(package: Path) -> dict[str, int]:
    """Files by folder, without those in folders inside it."""
    found: dict[str, int] = defaultdict(int)
    for name in modules_of(package):
        found[name.rpartition(".")[0] or "."] += 1
    return dict(found)


# The way of one item


class Way:
    """Calls from file to file of the package, from where an item is put into its map's queue to the run's end; and before
    that too, the files whose functions are handed an attempt."""

    def __init__(self, package: Path) -> None:
        self._package = f"{package}/"
        self._has_begun = False
        self.files: list[str] = []
        self.handed: set[str] = set()
        self.calls: dict[tuple[str, str], str] = {}

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or (callee := self._file(frame)) is None:
            return
        if any(type(value).__name__ == "Attempt" for value in frame.f_locals.values()):
            self.handed.add(callee)
        self._has_begun |= frame.f_code.co_qualname == "MapItems.__init__"
        if not self._has_begun:
            return
        if callee not in self.files:
            self.files.append(callee)
        caller = self._file(frame.f_back) if frame.f_back is not None else None
        if caller is not None and caller != callee:
            self.calls.setdefault((caller, callee), frame.f_code.co_qualname)

    def _file(self, frame: FrameType) -> str | None:
        name = frame.f_code.co_filename
        if not name.startswith(self._package):
            return None
        return name.removeprefix(self._package).removesuffix(".py").replace("/", ".")


def way_of_an_item(package: Path, folder: str = "engine") -> tuple[list[str], list[str], set[str]]:
    """The files of a folder through which an item goes that touches no state, and the calls among them that go up: into a
    file that imports the caller's, or, where both import each other, into the one that came first. Then the files of the
    package that are handed its attempt, or that of the reading of its source."""
    agent = graphflow.Agent(cache=graphflow.RedisCache("memory://way"))
    way = Way(package)

    async def work(item: int) -> int:
        return item

    agent.node(map_over="items")(work)

    async def main() -> None:
        # Tasks that begin later, on every Python: where one begins at once, that is not a call of what it runs.
        asyncio.get_running_loop().set_task_factory(
            lambda loop, work, **options: asyncio.Task(work, loop=loop, **options)
        )
        task = graphflow.Task(type="way", objective="follow an item")
        sys.setprofile(way.note)
        try:
            await agent.run_task(task, state={"items": [1]})
        finally:
            sys.setprofile(None)

    asyncio.run(main())
    imports = imports_of(package, types=True)
    reached = {name: _reached(imports, name) for name in imports}
    first = {name: number for number, name in enumerate(way.files)}
    inside = [name for name in way.files if name.startswith(f"{folder}.")]
    up = [
        f"{caller} calls {called} of {callee}"
        for (caller, callee), called in way.calls.items()
        if {caller, callee} <= set(inside)
        and caller in reached[callee]
        and (callee not in reached[caller] or first[callee] < first.get(caller, 0))
    ]
    return inside, up, way.handed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(graphflow.__file__).parent)
    package = parser.parse_args().folder.resolve()
    with_types, at_run_time = imports_of(package, types=True), imports_of(package, types=False)
    lines, methods, folders = functions(package), classes(package), flat_folders(package)
    longest, largest = max(lines, key=lines.__getitem__), max(methods, key=methods.__getitem__)
    fullest = max(folders, key=folders.__getitem__)
    print(f"files                       {len(with_types)}")
    print(f"functions                   {len(lines)}")
    print(f"longest function            {lines[longest]} lines, {longest}")
    print(f"largest class               {methods[largest]} methods, {largest}")
    print(f"fullest folder              {folders[fullest]} files, {fullest}/")
    print(f"imports                     {sum(map(len, with_types.values()))}")
    for title, imports in (("circles at run time", at_run_time), ("circles with types", with_types)):
        found = circles(imports)
        print(f"{title:28}{len(found)}" + "".join(f"\n    {len(each)}: {' '.join(each)}" for each in found))
    print(f"imports that go up          {len(arrows_up(with_types))}")
    if package == Path(graphflow.__file__).parent:
        passed, up, handed = way_of_an_item(package)
        print(f"an item of a map            passes {len(passed)} files of engine/: {' '.join(passed)}")
        print(f"calls that go up            {len(up)}" + "".join(f"\n    {call}" for call in up))
        print(f"its attempts                are handed to {len(handed)} files: {' '.join(sorted(handed))}")


if __name__ == "__main__":
    main()
