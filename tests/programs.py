"""Python programs in processes of their own, as `subprocess.Popen` starts them, but forked where that can be done.

What is forked is a real process, with all that the kernel gives it: pid, group, signals, exit code. It saves the imports
(`tests/zygote.py`), which are most of what a short program does.
"""

from __future__ import annotations

import atexit
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.zygote import NUMBER_BYTES, Request

ROOT = Path(__file__).parents[1]
#: A process can be waited for by a file descriptor, and be forked although system libraries are loaded: Linux.
CAN_FORK = hasattr(os, "pidfd_open")


def start(words: Sequence[str], *, is_forked: bool = True, **options: Any) -> subprocess.Popen[Any]:
    """Start `python WORDS`. The options are those of Popen; of those that are about the process itself, a forked one
    knows `cwd`, `env` and `start_new_session`."""
    command = [sys.executable, *words]
    if is_forked and CAN_FORK:
        return _Forked(command, **options)
    return subprocess.Popen(command, **options)


def run(
    words: Sequence[str], *, timeout: float, is_forked: bool = True, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Run `python WORDS` to its end, and keep what it prints; TimeoutExpired, and it is killed, after `timeout` seconds."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start(words, is_forked=is_forked, **pipes, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


class _Forked(subprocess.Popen[Any]):
    """A process that is a child of the zygote: started by it and waited for at a socket, and else as any other."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: os.PathLike[str] | str | None = None,
        env: dict[str, str] | None = None,
        start_new_session: bool = False,
        **options: Any,
    ) -> None:
        folder = os.path.abspath(cwd or "")
        environment = dict(os.environ if env is None else env)
        self._request = Request(command[1:], folder, environment, start_new_session)
        self._status_lock = threading.Lock()
        super().__init__(command, **options)

    def _execute_child(self, *about: Any) -> None:
        pipes = about[10:16]
        stdin, _, _, stdout, _, stderr = pipes
        self._status, there = socket.socketpair()
        given = [own if file == -1 else file for own, file in enumerate((stdin, stdout, stderr))]
        with there:
            socket.send_fds(_zygote(), [b"+"], [*given, there.fileno()])
        self._status.sendall(self._request.to_bytes())
        self._status.shutdown(socket.SHUT_WR)
        self.pid = self._told()
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        return self._ended(0)

    def _wait(self, timeout: float | None) -> int:
        code = self._ended(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def _ended(self, seconds: float | None) -> int | None:
        with self._status_lock:
            if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
                self.returncode = self._told()
                self._status.close()
        return self.returncode

    def _told(self) -> int:
        told = self._status.recv(NUMBER_BYTES, socket.MSG_WAITALL)
        assert len(told) == NUMBER_BYTES, "the zygote has ended; its last words are above"
        return int.from_bytes(told, "big", signed=True)


_doors: dict[int, socket.socket] = {}
_doors_lock = threading.Lock()


def _zygote() -> socket.socket:
    """The door of this process's zygote, which is started when it is first needed."""
    with _doors_lock:
        door = _doors.get(os.getpid())
        if door is None:
            door, there = socket.socketpair()
            with there:
                command = [sys.executable, "-m", "tests.zygote", str(there.fileno())]
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    pass_fds=[there.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            _doors[os.getpid()] = door
            atexit.register(_end_zygote, door, process)
    return door


def _end_zygote(door: socket.socket, process: subprocess.Popen[bytes]) -> None:
    door.close()
    process.wait()
