"""Where is the code of an agent, so that another process can find it, and is a stored run this agent's? Kept with each run
as `package.module:variable`, or as `FILE:variable` for a script.

A file inside the folder that an embedded store serves is written relative to that folder: the two may move together.
Any other is absolute. The agent is looked up by loading its code; `loading` says that this is what goes on, so that
code which runs its agent as it is loaded is refused instead of starting another run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from pathlib import Path
from types import ModuleType

from graphflow.errors import RunsOnImport
from graphflow.server.address import Address

_loading: ContextVar[str] = ContextVar("loading", default="")
#: Names of modules that were loaded by their files: nobody else can import them by these names.
_loaded_by_file: set[str] = set()


class Owner(Enum):
    """Whose a stored run is, as an agent sees it."""

    OURS = auto()
    ANOTHERS = auto()
    #: Where it says that its agent is, there is none any more.
    UNKNOWN = auto()


@dataclass(frozen=True)
class Identity:
    """Who an agent is: by module and variable where both are known, by name where not."""

    agent: object
    name: str
    #: The name was given; it is not that of the file.
    is_named: bool
    #: That made the agent; None for code that is in no file.
    file: str | None
    address: Address

    @cached_property
    def code(self) -> str:
        """As it is kept with runs; see `code_of`."""
        return code_of(self.agent, self.file, self.address)

    def owner_of(self, agent: str, code: str) -> Owner:
        """Whose the run is that was stored for `agent`, which was at `code`."""
        is_namesake = agent == self.name
        if not code:
            return Owner.OURS if is_namesake else Owner.ANOTHERS
        if code == self.code or self._is_place(code):
            # One variable may hold agents of many names, as one for each tenant.
            return Owner.ANOTHERS if self.is_named and not is_namesake else Owner.OURS
        if self.is_loaded(code) or self._is_elsewhere(code):
            return Owner.ANOTHERS
        # There is nothing there any more. A file that was renamed gave the agent its name.
        has_files_name = not self.is_named and agent == _words(_split(code)[0])[-1]
        return Owner.UNKNOWN if is_namesake or has_files_name else Owner.ANOTHERS

    def is_loaded(self, code: str) -> bool:
        """Whether this process has another agent there."""
        place, variable = _split(code)
        file = _located(place, self.address)
        return file is not None and any(
            isinstance(there := vars(module).get(variable), type(self.agent)) and there is not self.agent
            for module in list(sys.modules.values())
            if _is_same(getattr(module, "__file__", None), file)
        )

    def _is_place(self, code: str) -> bool:
        """Whether that is where this agent is, by whichever name it was loaded then and now; or was, where a file of that
        name has moved."""
        place, variable = _split(code)
        if not self.code or self.file is None or variable != _split(self.code)[1]:
            return False
        file = _located(place, self.address)
        if _is_same(self.file, file):
            return True
        if file is not None and not self.is_named:
            return False
        words, own = _words(place), _words(self.file)
        # Every package may have its `__main__`.
        count = len(words) if _is_module(place) else 2 if words[-1:] == ["__main__"] else 1
        return own[-count:] == words[-count:]

    def _is_elsewhere(self, code: str) -> bool:
        file = _located(_split(code)[0], self.address)
        return file is not None and not _is_same(self.file, file)


def code_of(agent: object, file: str | None, address: Address) -> str:
    """Where the agent that `file` made is; empty if it is not at the top of a file,
    or if the file's path is no UTF-8."""
    if file is None:
        return ""
    if not _is_text(file):
        return ""
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) != file:
            continue
        for name, value in list(vars(module).items()):
            if value is agent:
                return f"{_imported_as(module) or _written(file, address)}:{name}"
    return ""


def name_of(file: str) -> str:
    """How an agent is called that has no name of its own, and the task of `graphflow run`: by the stem of the file."""
    stem = Path(file).stem
    return stem if _is_text(stem) else stem.encode(errors="replace").decode()


def folder_of(address: Address) -> Path | None:
    """The folder that an embedded store serves; None for any other."""
    if address.kind != "embedded" or address.path is None:
        return None
    return address.path.resolve().parent


def note_loaded_by_file(name: str) -> None:
    """The module has the name that it has in its package, but was not looked for by that."""
    _loaded_by_file.add(name)


@contextmanager
def loading(place: str) -> Iterator[None]:
    """As long as the block lasts, only definitions are wanted from what is loaded."""
    token = _loading.set(place)
    try:
        yield
    finally:
        _loading.reset(token)


def refuse_while_loading() -> None:
    """RunsOnImport if the code that wants to run an agent is only being loaded."""
    if place := _loading.get():
        raise RunsOnImport(place)


def _is_text(path: str) -> bool:
    """Whether it can be stored; the names of files are any bytes but need not be UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _written(file: str, address: Address) -> str:
    path, base = Path(file).resolve(), folder_of(address)
    return str(path.relative_to(base) if base is not None and path.is_relative_to(base) else path)


def _imported_as(module: ModuleType) -> str:
    """The name by which it can be imported from anywhere, which only a module inside a package has; else empty."""
    spec = getattr(module, "__spec__", None)
    # `python -m package.module` calls it `__main__`.
    name = spec.name if module.__name__ == "__main__" and spec is not None else module.__name__
    return name if "." in name and name not in _loaded_by_file else ""


def _split(code: str) -> tuple[str, str]:
    place, _, variable = code.rpartition(":")
    return place, variable


def _is_module(place: str) -> bool:
    return not place.endswith(".py") and all(part.isidentifier() for part in place.split("."))


def _words(place: str) -> list[str]:
    """The names of a file and the folders around it, or of a module and its packages, the outermost first."""
    if _is_module(place):
        return place.split(".")
    words = [*Path(place).with_suffix("").parts]
    return words[:-1] if words[-1:] == ["__init__"] else words


def _located(place: str, address: Address) -> str | None:
    """The file there; None if there is none. Nothing is loaded."""
    if not _is_module(place):
        path = os.path.join(folder_of(address) or "", place)
        return path if os.path.isfile(path) else None
    within = os.path.join(*place.split("."))
    for folder in sys.path:
        for path in (f"{within}.py", os.path.join(within, "__init__.py")):
            if os.path.isfile(found := os.path.join(folder, path)):
                return found
    return None


def _is_same(file: str | None, other: str | None) -> bool:
    if file is None or other is None:
        return False
    return file == other or os.path.realpath(file) == os.path.realpath(other)
