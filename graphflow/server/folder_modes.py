"""Who else may read an embedded folder? Finds what is open to other users, and closes it.

The server and graphflow make only what is private; what is found here was there before, or was opened since.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from graphflow.server.address import EMBEDDED_FOLDER

#: What the server and graphflow keep in the folder; the folder may hold other things if it is a link to one that does.
_OURS = (
    *(f"server.{kind}" for kind in ("json", "new", "log", "pid", "lock")),
    *("start.lock", "users.lock", "caretaker.lock", "redis.sock"),
    *("appendonlydir", "appendonly.aof", "dump.rdb", "temp-*.aof", "temp-*.rdb"),
)
_OTHERS = 0o077


def open_to_others(folder: Path) -> list[Path]:
    """What of the folder the mode lets other users at; nothing where no folder is. Links are never followed."""
    return [path for path in _parts(folder) if _mode(path) & _OTHERS]


def close_to_others(folder: Path) -> None:
    """Leave each part of the folder to its owner alone. What belongs to somebody else stays as it is."""
    for path in open_to_others(folder):
        with contextlib.suppress(OSError):
            path.chmod(_mode(path) & ~_OTHERS)


def _parts(folder: Path) -> Iterator[Path]:
    if folder.name == EMBEDDED_FOLDER:
        yield folder
    for path in _listed(folder):
        if any(fnmatch(path.name, pattern) for pattern in _OURS):
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from _listed(path)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _mode(path: Path) -> int:
    """0 for what is gone, and for links, whose mode means nothing."""
    try:
        found = path.lstat().st_mode
    except OSError:
        return 0
    return 0 if stat.S_ISLNK(found) else stat.S_IMODE(found)
