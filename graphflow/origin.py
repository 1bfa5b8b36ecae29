"""Where is the code of an agent, so that another process can find it? Kept with each run as `package.module:variable`,
or as `FILE:variable` for a script.

A file inside the folder that an embedded store serves is written relative to that folder: the two may move together.
Any other is absolute. The agent is looked up by loading its code; `loading` says that this is what goes on, so that
code which runs its agent as it is loaded is refused instead of starting another run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from graphflow.errors import RunsOnImport
from graphflow.server.address import Address

_loading: ContextVar[str] = ContextVar("loading", default="")


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
                # Only a module inside a package can be imported from anywhere.
                place = module.__name__ if "." in module.__name__ else _written(file, address)
                return f"{place}:{name}"
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
