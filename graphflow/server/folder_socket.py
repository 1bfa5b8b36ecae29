"""Where does the server of an embedded folder listen, and what may be removed there?

The socket lies in the folder. Where that path is too long for one it lies in a folder with a short name, which holds a
note that says for which folder it was made; the record alone, which may have come from elsewhere, is not believed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from pathlib import Path

from graphflow.errors import EmbeddedServerError
from graphflow.server.address import connected
from graphflow.server.folder_record import FolderRecord, identity_of, open_private

SOCKET_NAME = "redis.sock"
#: Bytes that the path of a unix socket may have.
SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107
#: In a short folder: the device and inode of the folder it was made for.
_NOTE = "folder"
#: Seconds that a server may take to accept a connection before it counts as one that answers too late.
_ANSWER_SECONDS = 1.0


def place_of_socket(folder: Path, record: FolderRecord | None) -> str:
    """Where the server of `folder` listens, if one runs: a name in the folder, or an absolute path elsewhere."""
    if record is None or not record.is_about(folder):
        return SOCKET_NAME
    return record.socket if _is_made_for(folder, record.socket) else SOCKET_NAME


def new_place_of_socket(folder: Path) -> str:
    """The place for the socket of a new server. Raises `EmbeddedServerError` if something is there that is not ours."""
    inside = folder / SOCKET_NAME
    if len(os.fsencode(inside)) > SOCKET_PATH_LIMIT:
        return str(_short_folder(folder) / SOCKET_NAME)
    remove_socket(inside)
    if _is_socket(inside):
        raise EmbeddedServerError(
            f"a server answers at {inside}, but its lock on {folder / 'server.lock'} is lost; end that server "
            f"(`redis-cli -s {inside} shutdown`) and try again"
        )
    if os.path.lexists(inside):
        raise EmbeddedServerError(f"{inside} is no socket of a server; move it away and try again")
    return SOCKET_NAME


def remove_socket(path: Path) -> None:
    """Remove the folder's own socket, and the short folder made for it. Harmless if somebody answers, or if it is none."""
    with contextlib.suppress(OSError):
        if _is_socket(path):
            if _is_answered(path):
                return
            path.unlink()
        if _is_short(path.parent) and not os.path.lexists(path):
            (path.parent / _NOTE).unlink()
            path.parent.rmdir()


def _short_folder(folder: Path) -> Path:
    short = Path(tempfile.mkdtemp(prefix="graphflow-"))
    if len(os.fsencode(short / SOCKET_NAME)) > SOCKET_PATH_LIMIT:
        short.rmdir()
        short = Path(tempfile.mkdtemp(prefix="graphflow-", dir="/tmp"))
    with open(short / _NOTE, "w", encoding="ascii", opener=open_private) as note:
        note.write(_note_for(folder))
    return short


def _is_made_for(folder: Path, place: str) -> bool:
    """Whether `place`, which a record names, is a socket's place in a short folder that was made for `folder`."""
    path = Path(place)
    try:
        return (
            path.is_absolute()
            and path.name == SOCKET_NAME
            and _is_private(path.parent)
            and (path.parent / _NOTE).read_text(encoding="ascii") == _note_for(folder)
        )
    except (OSError, ValueError):
        return False


def _note_for(folder: Path) -> str:
    device, inode = identity_of(folder)
    return f"{device}:{inode}"


def _is_short(folder: Path) -> bool:
    return folder.name.startswith("graphflow-") and _is_private(folder) and (folder / _NOTE).is_file()


def _is_private(folder: Path) -> bool:
    """Whether nobody but this user can have put anything there."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


def _is_answered(path: Path) -> bool:
    """Whether a process listens there, also one that takes no connection at present, or none of this user."""
    try:
        connected(str(path), _ANSWER_SECONDS).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError:
        return True
    return True
