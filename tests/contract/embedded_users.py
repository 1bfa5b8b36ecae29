"""Other processes that use an embedded folder, and looks at its server from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from graphflow.server.embedded import EmbeddedServer
from graphflow.server.folder_record import FolderRecord


class StartUser(Protocol):
    """Start a process that uses `folder`, runs `body` (default: until its stdin is closed) and ends."""

    def __call__(
        self, folder: Path, body: str = "", *, wait_for_ready: bool = True
    ) -> subprocess.Popen[str]: ...


@contextmanager
def users() -> Iterator[StartUser]:
    """Ends all that were started, and their servers, at the end."""
    started: list[tuple[Path, subprocess.Popen[str]]] = []

    def start(folder: Path, body: str = "", *, wait_for_ready: bool = True) -> subprocess.Popen[str]:
        code = f"""
import os, sys
from pathlib import Path
from graphflow.server.embedded import EmbeddedServer
server = EmbeddedServer(Path({str(folder)!r}))
server.start()
print("ready", flush=True)
{textwrap.dedent(body) or "sys.stdin.read()"}
"""
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append((folder, process))
        if wait_for_ready:
            wait_ready(process)
        return process

    yield start
    for _, process in started:
        process.kill()
        process.communicate()
    for folder in {folder for folder, _ in started}:
        if pid_of(folder):
            with EmbeddedServer(folder):
                """Take over what a killed user left, and shut it down."""


def wait_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def command(server: EmbeddedServer, *words: str) -> list[str]:
    """The lines of a server's answer that hold values; numbers and states without their signs."""
    record = FolderRecord.read(server.folder / "server.json")
    assert record is not None
    packed = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    with socket.socket(socket.AF_UNIX) as conversation:
        conversation.settimeout(10)
        conversation.connect(str(server.folder / record.socket))
        conversation.sendall(packed.encode())
        conversation.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: conversation.recv(65536), b"")).decode()
    lines = answer.removesuffix("\r\n").split("\r\n")
    return [line.lstrip("+:") for line in lines if not line.startswith(("*", "$"))]


def pid_of(folder: Path) -> int:
    try:
        return int((folder / "server.pid").read_text())
    except FileNotFoundError:
        return 0


def caretakers_of(folder: Path) -> list[int]:
    """The processes that take care of the folder's server."""
    listed = subprocess.run(["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True, check=True)
    return [
        int(line.split()[0])
        for line in listed.stdout.splitlines()
        if "caretaker.py" in line and line.endswith(f" {folder}")
    ]


def lives(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not reaped yet does not."""
    if not pid:
        return False
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc").exists()
    return state != "Z"
