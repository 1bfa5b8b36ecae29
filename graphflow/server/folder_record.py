"""What does `server.json` say of an embedded folder? Which server wrote its data, and where that server listens.

Engine and version hold for the data wherever they are copied to. The socket is that of one folder: a copy of the folder,
or one that came with somebody's project, has another device and inode than the record, and its word on sockets is void.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphflow.errors import EmbeddedServerError

_KINDS: dict[type, str] = {str: "a text", int: "a whole number"}
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class FolderRecord:
    """The engine and version that last wrote a folder, and the socket of that server."""

    engine: str
    version: str
    #: A name in the folder, or an absolute path elsewhere.
    socket: str
    #: Those of the folder that the record was written for; 0 in records from before they were kept.
    device: int = 0
    inode: int = 0

    @property
    def version_numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("."))

    def is_about(self, folder: Path) -> bool:
        """Whether it was written for `folder` itself, wherever that was moved, and not for one it is a copy of."""
        return (self.device, self.inode) == identity_of(folder)

    @classmethod
    def read(cls, file: Path) -> FolderRecord | None:
        """The record in `file`; None if there is no such file. OSError; `EmbeddedServerError` if it is not as it should be."""
        try:
            return cls._of(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as exc:
            raise EmbeddedServerError(
                f"cannot read {file} ({exc}), which says what server wrote this folder; restore it, or move "
                f"{file.parent} away to start with an empty store"
            ) from exc

    def write(self, file: Path) -> None:
        """Replace `file` in one step, so that no crash leaves half of it."""
        draft = file.with_suffix(".new")
        with open(draft, "w", encoding="utf-8", opener=open_private) as stream:
            json.dump(asdict(self), stream, indent=2)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)

    @classmethod
    def _of(cls, content: Any) -> FolderRecord:
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        record = cls(
            *(_field(content, name, str) for name in ("engine", "version", "socket")),
            *(_field(content, name, int, 0) for name in ("device", "inode")),
        )
        if not _VERSION.fullmatch(record.version):
            raise ValueError("its version is not like 1.2.3")
        return record


def identity_of(folder: Path) -> tuple[int, int]:
    """Device and inode: they stay when the folder is renamed, and a copy has others. Raises OSError."""
    found = folder.stat()
    return found.st_dev, found.st_ino


def open_private(path: str, flags: int) -> int:
    """An opener for `open`: a file that it makes is for its owner alone, and no link leads it out of the folder."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _field(content: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = content.get(name, default)
    if type(value) is not kind:
        raise ValueError(f"its {name} is not {_KINDS[kind]}")
    return value
