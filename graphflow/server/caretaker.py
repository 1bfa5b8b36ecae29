"""Who ends a folder's server when its last user could not? A process beside the server that looks once a second.

A user that is killed, or a forked child that ends by `os._exit` (as those of multiprocessing do), runs no code at its end;
but the kernel takes away its lock. This file runs as a program of its own, in an interpreter without site packages, so
that it is small and there within some 10 ms: it imports nothing of graphflow. Its arguments are descriptors of the files
start.lock, users.lock, server.lock (see `embedded.py`) and caretaker.lock; it holds the last one for as long as it lives.
Its working folder is the embedded one, also after that was moved.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time

#: Seconds between two looks, so that a user who comes right after a killed one finds the server up.
LOOK_SECONDS = 1.0
#: Seconds that the server may take to write its data and end.
STOP_SECONDS = 10.0
#: Seconds to wait for the server to say which process it is. Later it is looked for at each look.
_PID_SECONDS = 1.0
_POLL_SECONDS = 0.01


def watch(pid: int, *, start: int, users: int, server: int, own: int) -> None:
    """Until the server is gone, `pid` at first. Decides under the start lock, as who enters and who leaves does."""
    while True:
        time.sleep(LOOK_SECONDS)
        if not _take(start):
            continue
        pid = _server_pid() or pid
        if _take(users):
            _end(pid, server)
        elif not _is_free(server):
            fcntl.flock(start, fcntl.LOCK_UN)
            continue
        # Before the start lock: whoever starts a server next must not take this process for its caretaker.
        os.close(own)
        return


def _end(pid: int, server: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    asked = False
    while not _is_free(server) and time.monotonic() < deadline:
        if pid and not asked:
            asked = True
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(_POLL_SECONDS)


def _wait_pid(server: int) -> int:
    """The server's process, which says so soon after it has taken server.lock; 0 if it ends or cannot."""
    deadline = time.monotonic() + _PID_SECONDS
    while not (pid := _server_pid()) and not _is_free(server) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return pid


def _server_pid() -> int:
    """0 if it is not written yet, or the folder was deleted."""
    try:
        with open("server.pid", encoding="ascii") as file:
            return max(0, int(file.read()))
    except (OSError, ValueError):
        return 0


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(lock: int) -> bool:
    if not _take(lock):
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


if __name__ == "__main__":
    start, users, server, own = (int(word) for word in sys.argv[1:5])
    pid = _wait_pid(server)
    # Nobody's child: the process that started it goes on at once, and has no zombie to reap.
    if not os.fork():
        watch(pid, start=start, users=users, server=server, own=own)
