"""Locks on files (flock) between the processes of one machine; the kernel frees them when their last holder dies.

A lock belongs to an open file: a copy of its descriptor handed to another process keeps it held there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from graphflow.clock import outside

_POLL_SECONDS = 0.01


class FileLock:
    """A lock file, opened but not yet locked. Raises OSError if the file cannot be made, or is a link."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _opened.add(self)

    def try_exclusive(self) -> bool:
        """Take the lock for this holder alone, unless another one has it. A shared lock held before is given up."""
        return self._try(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        """Take the lock together with other shared holders, unless one has it alone."""
        return self._try(fcntl.LOCK_SH)

    def release(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def is_held_elsewhere(self) -> bool:
        """Whether another holder has the lock. Only for a lock that this holder does not have."""
        if not self.try_exclusive():
            return True
        self.release()
        return False

    def is_current(self) -> bool:
        """Whether the path still leads to the file that was opened, not to nothing or to a newer one."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self.fd))

    def moved_to(self) -> Path | None:
        """Where the file is that was opened, if it was moved from its path and the system tells; None otherwise."""
        if self.is_current() or os.fstat(self.fd).st_nlink == 0:
            return None
        try:
            return Path(_path_of(self.fd))
        except OSError:
            return None

    def close(self) -> None:
        """Close the file. The lock ends with it unless a process that inherited the descriptor still has it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _try(self, operation: int) -> bool:
        try:
            fcntl.flock(self.fd, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _path_of(fd: int) -> str:
    if sys.platform == "darwin":
        return os.fsdecode(fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
    return os.readlink(f"/proc/self/fd/{fd}")


@contextlib.contextmanager
def exclusively(path: Path, *, wait_seconds: float) -> Iterator[None]:
    """Hold the lock at `path` inside the block. Raises TimeoutError if others hold it for `wait_seconds`."""
    lock = FileLock(path)
    try:
        deadline = outside() + wait_seconds
        while not lock.try_exclusive():
            if outside() > deadline:
                raise TimeoutError(f"another process has held {path} for {wait_seconds:.0f} s")
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            # Not left to close(): a child forked meanwhile shares the open file and would go on holding it.
            lock.release()
    finally:
        lock.close()


_opened: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_inherited() -> None:
    """After a fork the child must not keep its parent's locks alive. Closing, unlike LOCK_UN, leaves them to the parent."""
    for lock in list(_opened):
        lock.close()
    _opened.clear()


os.register_at_fork(after_in_child=_close_inherited)
