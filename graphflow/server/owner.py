"""Who am I, and does another process still live? Owners of leases are written as `host:pid:start`.

`start` tells a process from a later one of the same number, and holds the pid namespace where the system has such, so
that two containers of one host name never take each other for dead.
"""

from __future__ import annotations

import os
import socket
import subprocess
from functools import cache
from pathlib import Path


def current_owner() -> str:
    """This process."""
    return _owner_of(os.getpid())


def owner_text(owner: str) -> str:
    """Host and process of an owner, as `host:pid`."""
    return owner.rpartition(":")[0] or owner


def is_gone(owner: str) -> bool:
    """Whether `owner` was a process of this host, as this process sees it, and has ended. False where unknown."""
    try:
        host, number, start = owner.rsplit(":", 2)
        pid = int(number)
    except ValueError:
        return False
    if host != socket.gethostname() or start.partition(".")[0] != _namespace():
        return False
    return f"{_namespace()}.{_started(pid)}" != start


@cache
def _owner_of(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{_namespace()}.{_started(pid)}"


def _started(pid: int) -> str:
    """When the process started, in the system's own units; empty if there is none, or only its zombie."""
    if not Path("/proc/self/stat").exists():
        return _started_by_ps(pid)
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The command, in parentheses, may hold blanks; after it come state (field 3) and, 19 further, the start (22).
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _started_by_ps(pid: int) -> str:
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip().replace(" ", "-").replace(":", "-")


def _namespace() -> str:
    """The number of this process's pid namespace; `0` where the system has none."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "0"
