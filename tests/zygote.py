"""A process that has imported graphflow once and forks: what it forks is soon where `python -m graphflow` is later.

    python -m tests.zygote FD

FD is a socket. One byte with four file descriptors asks for a process: its stdin, stdout, stderr, and a socket on which it
is told what to be (a `Request`), and the asker its pid and, when it has ended, how. Whoever closes FD ends them all.
"""

from __future__ import annotations

import gc
import io
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from types import ModuleType

from graphflow import failpoints

#: What programs import. Not the programs themselves: they are executed anew, each time, as a program is.
IMPORTED = (
    "graphflow.agent",
    "graphflow.store.cache",
    "graphflow.cli.answer",
    "graphflow.cli.cancel",
    "graphflow.cli.demo",
    "graphflow.cli.doctor",
    "graphflow.cli.look",
    "graphflow.cli.main",
    "graphflow.cli.resume",
    "graphflow.cli.retry",
    "graphflow.cli.run",
    "graphflow.cli.server",
    "graphflow.cli.upkeep",
    "graphflow.server.embedded",
    "graphflow.server.memory_server",
    "tests.faults.graphs",
)
#: Bytes of a pid, and of an exit code as `subprocess` has it: negative for a signal.
NUMBER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Request:
    """What to be: `words` are those of a Python command, `-m MODULE ...`, `-c CODE ...` or `FILE ...`."""

    words: Sequence[str]
    folder: str
    environment: dict[str, str]
    is_session: bool

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def main() -> None:
    for name in IMPORTED:
        import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads is not to be forked"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    request = Zygote(socket.socket(fileno=int(sys.argv[1]))).serve()
    if request is not None:
        become(request)
        execute(request.words)


class Zygote:
    def __init__(self, door: socket.socket) -> None:
        self._door = door
        #: By a file descriptor of the process: its pid, and who wants to know how it ends.
        self._children: dict[int, tuple[int, socket.socket]] = {}

    def serve(self) -> Request | None:
        """Fork until the door is closed. Returns in each forked process, with its request, and at the end with None."""
        while True:
            ready, _, _ = select.select([self._door, *self._children], [], [])
            for child in ready:
                if child is not self._door:
                    self._say_how_it_ended(child)
            if self._door in ready:
                asked, files, _, _ = socket.recv_fds(self._door, 1, 4)
                if not asked:
                    return self._end()
                asker = socket.socket(fileno=files.pop())
                pid = os.fork()
                if pid == 0:
                    return self._born(files, asker)
                for file in files:
                    os.close(file)
                self._children[os.pidfd_open(pid)] = pid, asker
                asker.sendall(as_bytes(pid))

    def _born(self, files: Sequence[int], asker: socket.socket) -> Request:
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        self._door.close()
        for child, (_, other) in self._children.items():
            os.close(child)
            other.close()
        with asker, asker.makefile("rb") as told:
            return Request(**json.load(told))

    def _say_how_it_ended(self, child: int) -> None:
        pid, asker = self._children.pop(child)
        # Said before it is reaped: as long as nobody knows, its pid is no other's.
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        # Whoever asked may not care any more.
        with asker, suppress(OSError):
            asker.sendall(as_bytes(code))
        os.waitpid(pid, 0)
        os.close(child)

    def _end(self) -> None:
        for child, (pid, _) in list(self._children.items()):
            os.kill(pid, signal.SIGKILL)
            self._say_how_it_ended(child)


def as_bytes(number: int) -> bytes:
    return number.to_bytes(NUMBER_BYTES, "big", signed=True)


def become(request: Request) -> None:
    """Take over what a process is given at its start, and what modules read when they are imported."""
    if request.is_session:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in paths if path and path not in sys.path]
    _open_streams()
    random.seed()
    failpoints.configure(os.environ.get(failpoints.ENVIRONMENT_VARIABLE, ""))


def _open_streams() -> None:
    """As Python does at its start: what the zygote was born with may have been no pipe or terminal, and known as such."""
    is_unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        buffering = 0 if number and is_unbuffered else -1
        binary = open(number, "wb" if number else "rb", buffering, closefd=False)  # noqa: SIM115
        stream = io.TextIOWrapper(
            binary,
            errors="backslashreplace" if number == 2 else None,
            line_buffering=number == 2 or os.isatty(number),
            write_through=not buffering,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def execute(words: Sequence[str]) -> None:
    """Do what `python WORDS` does."""
    match words:
        case ["-m", module, *arguments]:
            sys.argv, sys.path[0] = [module, *arguments], os.getcwd()
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.argv, sys.path[0] = ["-c", *arguments], ""
            sys.modules["__main__"] = program = ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), program.__dict__)
        case [file, *arguments]:
            sys.argv, sys.path[0] = [file, *arguments], os.path.dirname(os.path.realpath(file))
            runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    main()
