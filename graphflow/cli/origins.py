"""May a command load the code that a run says it was started by? Whoever can write to the store can write that.

So only what lies below the folders that the command works in is loaded, or what pyproject.toml names. What was installed
lies outside, wherever it is. Nothing is executed to find that out but what may be: each package on the way to a module is
looked at before it is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sysconfig
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from graphflow.server.address import EMBEDDED_FOLDER

PROJECT_FILE = "pyproject.toml"
#: Folders inside a folder of one's own whose files are not: of installed packages, and of the store itself.
_FOREIGN_FOLDERS = frozenset({"site-packages", "dist-packages", EMBEDDED_FOLDER})
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run says that its agent is: a Python file, or a module inside a package, and a variable."""

    place: str
    variable: str

    @property
    def reference(self) -> str:
        return f"{self.place}:{self.variable}"

    @property
    def is_file(self) -> bool:
        return self.place.endswith(".py")


#: The agent of `graphflow demo` is the command's own.
OWN_ORIGIN = Origin("graphflow.cli.demo", "agent")


class OutsideFolders(Exception):
    """The code lies in none of the folders."""


def origin_from(code: str) -> Origin | None:
    """What a run has stored; None if it is nothing that could name an agent."""
    place, _, variable = code.rpartition(":")
    origin = Origin(place, variable)
    if not variable.isidentifier() or not place.isprintable():
        return None
    if origin.is_file or all(part.isidentifier() for part in place.split(".")):
        return origin
    return None


def file_inside(path: Path, folders: Sequence[Path]) -> Path:
    """The file itself, behind all links. OutsideFolders."""
    try:
        found = path.resolve()
    except (OSError, RuntimeError, ValueError):
        raise OutsideFolders from None
    if not any(_is_inside(found, folder) for folder in folders):
        raise OutsideFolders
    return found


def check_module_inside(name: str, folders: Sequence[Path]) -> None:
    """Load the packages around the module if they lie inside as well, and the module not yet. OutsideFolders; what it
    raises that is loaded."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        each = ".".join(parts[:count])
        try:
            # Of a module in a package that is loaded, this loads nothing.
            spec = importlib.util.find_spec(each)
        except ValueError:
            # It is loaded and does not say from where.
            raise OutsideFolders from None
        if spec is None:
            raise ModuleNotFoundError(f"No module named {each!r}", name=each)
        # A namespace package has no file, and so nothing that is executed.
        if spec.origin is not None or spec.submodule_search_locations is None:
            if spec.origin is None or not spec.has_location:
                raise OutsideFolders
            file_inside(Path(spec.origin), folders)
        if count < len(parts):
            importlib.import_module(each)


def named_in_project(origin: Origin, path: Path | None) -> tuple[str, Path] | None:
    """What to load, and a folder to look for modules in, if pyproject.toml names the agent; `path` is that of a file.

    BadParameter if pyproject.toml cannot be read.
    """
    project = project_file()
    if project is None:
        return None
    for place, variable in _named(project):
        if variable not in ("", origin.variable):
            continue
        if origin.is_file and path is not None and _is_same_file(project.parent / place, path):
            return f"{project.parent / place}:{origin.variable}", project.parent
        if not origin.is_file and place == origin.place:
            return f"{place}:{origin.variable}", project.parent
    return None


def project_file() -> Path | None:
    """The pyproject.toml of the working folder, or of the nearest folder above that has one; a file above that belongs to
    neither this user, root nor the owner of the working folder is not believed."""
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        file = folder / PROJECT_FILE
        if file.is_file():
            is_trusted = folder == here or file.stat().st_uid in (os.getuid(), 0, here.stat().st_uid)
            return file if is_trusted else None
    return None


def _is_inside(path: Path, folder: Path) -> bool:
    if not path.is_relative_to(folder):
        return False
    below = path.relative_to(folder)
    if any(
        (parent / "pyvenv.cfg").is_file()
        for parent in path.parents
        if parent != folder and parent.is_relative_to(folder)
    ):
        # An environment of Python, whatever it is called.
        return False
    in_library = path.is_relative_to(_STANDARD_LIBRARY) and not folder.is_relative_to(_STANDARD_LIBRARY)
    return not in_library and _FOREIGN_FOLDERS.isdisjoint(below.parts)


def _is_same_file(path: Path, other: Path) -> bool:
    try:
        return path.resolve() == other.resolve()
    except (OSError, RuntimeError, ValueError):
        return False


def _named(project: Path) -> Iterator[tuple[str, str]]:
    """The files or modules, and variables, that `[tool.graphflow] agents` names; no variable stands for any."""
    try:
        table = tomllib.loads(project.read_text(encoding="utf-8"))
        agents = table.get("tool", {}).get("graphflow", {}).get("agents", [])
    except (OSError, ValueError, AttributeError) as error:
        raise typer.BadParameter(f"{project} cannot be read: {error}") from error
    if not isinstance(agents, list) or not all(isinstance(each, str) for each in agents):
        raise typer.BadParameter(
            f'{project}: [tool.graphflow] agents is no list of texts; write agents = ["FILE.py:AGENT"]'
        )
    for each in agents:
        yield split_reference(each)


def split_reference(reference: str) -> tuple[str, str]:
    """File or module, and variable; the variable is empty if none is named."""
    place, colon, variable = reference.rpartition(":")
    if colon and place and variable.isidentifier():
        return place, variable
    return reference, ""
