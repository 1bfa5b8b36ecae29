"""May this process keep a store in a folder, and does one lie there? What the system says against it, as sentences."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from graphflow.errors import EmbeddedServerError
from graphflow.server.address import EMBEDDED_FOLDER

#: The file that makes a folder an embedded store; see `folder_record.py`.
RECORD_NAME = "server.json"
#: What the server writes into its folder, by itself or by whoever starts it.
SERVER_FILES = ("server.log", "appendonlydir", "appendonly.aof", "dump.rdb")


def holds_store(folder: Path) -> bool:
    """Whether a server was ever started in `folder`; makes nothing. `EmbeddedServerError` if that cannot be seen."""
    with folder_errors(folder):
        try:
            (resolved_folder(folder) / RECORD_NAME).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def resolved_folder(folder: Path) -> Path:
    """The folder without links. `EmbeddedServerError` if no folder can have this path."""
    with folder_errors(folder):
        if "\0" in str(folder):
            raise ValueError("its path holds a NUL")
        # Not Path.resolve(), which answers a loop of links in another way from version to version.
        resolved = Path(os.path.realpath(folder))
        str(resolved).encode()
        return resolved


@contextlib.contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Raise what the system says of the folder inside the block as `EmbeddedServerError`."""
    try:
        yield
    except TimeoutError as exc:
        raise EmbeddedServerError(f"{exc}, perhaps to load a large store; try again, or end it") from exc
    except (OSError, ValueError) as exc:
        raise EmbeddedServerError(
            f"cannot use the embedded store in {_printable(folder)}: {_reason(folder, exc)}; work in a folder that can "
            "be written to, or name one with --url embedded:///path/to/folder, or a running server with "
            "--url redis://..."
        ) from exc


def _reason(folder: Path, exc: OSError | ValueError) -> str:
    if isinstance(exc, UnicodeError):
        return "its path is not UTF-8"
    if not isinstance(exc, OSError) or not exc.strerror:
        return str(exc)
    named = os.fsdecode(exc.filename) if isinstance(exc.filename, str | bytes) else ""
    reason = exc.strerror + (f" ({Path(named).name})" if named and Path(named) != folder else "")
    if isinstance(exc, PermissionError):
        with contextlib.suppress(OSError, ValueError):
            if (owner := folder.stat().st_uid) != os.geteuid():
                return f"{reason}, it belongs to {_user(owner)}"
    return reason


def _user(number: int) -> str:
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"


def _printable(folder: Path) -> str:
    return str(folder).encode("utf-8", "backslashreplace").decode()


def make_folder(folder: Path) -> None:
    """Make it if it is not there, for this user alone, and hide it from git. Raises OSError."""
    try:
        folder.stat()
    except FileNotFoundError:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.name != EMBEDDED_FOLDER:
        # A folder of another kind, to which ours is a link.
        return
    with contextlib.suppress(FileExistsError), open(folder / ".gitignore", "x", encoding="ascii") as ignore:
        ignore.write("*\n")


def refuse_links(folder: Path) -> None:
    """EmbeddedServerError if what the server writes would be written elsewhere: links may come with somebody's project."""
    for name in (*SERVER_FILES, "caretaker.lock"):
        if (folder / name).is_symlink():
            raise EmbeddedServerError(
                f"{folder / name} is a symbolic link, and what the server keeps there must lie in the folder itself; "
                "remove the link, or move the whole folder and link to that"
            )
