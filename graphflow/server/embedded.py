"""How does a folder get a Redis of its own? Starts a server in `.graphflow/`, shares it, and shuts it down at the end.

The server is a real one on a unix socket with an append-only file. Four locks keep its life in order:

    start.lock      held by the one process that looks whether a server runs, starts it, or shuts it down
    users.lock      shared by every process that uses the server; who gets it alone is the last one out
    server.lock     inherited by the server itself, so that it is held exactly as long as a server process lives:
                    one that still starts, loads its data or hangs is never mistaken for none
    caretaker.lock  likewise held by the server's caretaker, which ends it when its last user died (`caretaker.py`)

The server is told its files by names in the folder, never by paths: it follows a folder that is moved, and what is made
later at the old path is none of its business. Which program serves is decided in `server_binary.py`, where it listens in
`folder_socket.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from graphflow.clock import outside
from graphflow.errors import EmbeddedServerError
from graphflow.server import caretaker
from graphflow.server.address import ask, ping
from graphflow.server.embedded_folder import (
    RECORD_NAME,
    folder_errors,
    make_folder,
    refuse_links,
    resolved_folder,
)
from graphflow.server.file_lock import FileLock, exclusively
from graphflow.server.folder_modes import close_to_others
from graphflow.server.folder_record import FolderRecord, identity_of, open_private
from graphflow.server.folder_socket import new_place_of_socket, place_of_socket, remove_socket
from graphflow.server.server_binary import ServerBinary, choose_binary

logger = logging.getLogger(__name__)

_LOG_NAME = "server.log"
_PID_NAME = "server.pid"
#: Seconds until a server that neither answers nor reports that it loads its data is given up.
START_SECONDS = 10.0
#: Seconds that a server may take to write its data and end.
STOP_SECONDS = 10.0
#: Seconds to wait for another process that starts or stops the server. It may load much data first.
LOCK_SECONDS = 60.0
_POLL_SECONDS = 0.005
_LOG_LINES = 6
#: Of the server's and the caretaker's process: what they make is for this user alone.
_UMASK = 0o077


class EmbeddedServer:
    """The server of one folder, shared by all who start it, here and in other processes. Its methods block.

    `folder` is the `.graphflow` folder; it is made when the server starts. Raises `EmbeddedServerError` for a path that
    no folder can have.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = resolved_folder(folder)
        self._membership: _Membership | None = None

    def start(self) -> str:
        """Join the folder's server, or start it if none runs, also after a crash. Returns its socket's path.

        Takes about 50 ms, or as long as the server loads its data. Raises `EmbeddedServerError`.
        """
        membership = _membership_of(self.folder)
        socket_path = membership.enter(first=membership is not self._membership)
        self._membership = membership
        return socket_path

    def stop(self) -> None:
        """Leave the server. The last of its users, over all processes, shuts it down. Harmless if not started."""
        membership, self._membership = self._membership, None
        if membership is not None and membership is _memberships.get(self.folder):
            membership.leave()

    def redis_cli_command(self) -> str:
        """The command that looks into the store while the server runs: `redis-cli -s .graphflow/redis.sock`."""
        with folder_errors(self.folder):
            record = FolderRecord.read(self.folder / RECORD_NAME)
            socket_path = self.folder / place_of_socket(self.folder, record)
        with contextlib.suppress(ValueError, OSError):
            socket_path = socket_path.relative_to(Path.cwd())
        return f"redis-cli -s {shlex.quote(str(socket_path))}"

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Membership:
    """This process among the users of one folder's server: entered once, however many objects here use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.Lock()
        self._references = 0
        self._users: FileLock | None = None
        self._server: FileLock | None = None
        self._socket = ""
        self._pid = 0

    @property
    def _record_file(self) -> Path:
        return self.folder / RECORD_NAME

    @property
    def _log(self) -> Path:
        return self.folder / _LOG_NAME

    def enter(self, *, first: bool) -> str:
        with self._guard:
            if self._references == 0 or not _is_up(ping(self._socket)):
                self._join()
            self._references += first
            return self._socket

    def leave(self) -> None:
        with self._guard:
            self._references -= 1
            if self._references == 0:
                self._part()

    def leave_at_exit(self) -> None:
        with self._guard:
            if self._references:
                self._references = 0
                self._part()

    def _join(self) -> None:
        try:
            with folder_errors(self.folder):
                self._follow()
                make_folder(self.folder)
                with exclusively(self.folder / "start.lock", wait_seconds=LOCK_SECONDS):
                    close_to_others(self.folder)
                    self._open_locks()
                    self._ensure_server()
        except BaseException:
            self._close_locks()
            raise

    def _follow(self) -> None:
        """Go along with a folder that was moved with all around it; leave one that was taken out of its place, or deleted."""
        if self._users is None or self._users.is_current():
            return
        moved = self._users.moved_to()
        if moved is not None and not self.folder.parent.exists():
            self.folder, self._users.path = moved.parent, moved
        else:
            self._part()

    def _open_locks(self) -> None:
        """Under the start lock. Whoever gets the users lock alone does so under it too, so sharing it cannot fail."""
        if self._users is None:
            self._users = FileLock(self.folder / "users.lock")
            self._users.try_shared()
            self._server = FileLock(self.folder / "server.lock")

    def _close_locks(self) -> None:
        for lock in (self._users, self._server):
            if lock is not None:
                lock.close()
        self._users = self._server = None

    def _ensure_server(self) -> None:
        record = FolderRecord.read(self._record_file)
        if self._lives():
            self._socket = str(self.folder / place_of_socket(self.folder, record))
            _ensure_caretaker(self.folder)
            self._wait_ready(log_start=None)
        else:
            self._launch(record)
        self._pid = _read_pid(self.folder)

    def _lives(self) -> bool:
        return self._server is not None and self._server.is_held_elsewhere()

    def _launch(self, record: FolderRecord | None) -> None:
        binary = choose_binary(self.folder, record)
        refuse_links(self.folder)
        remove_socket(self.folder / place_of_socket(self.folder, record))
        place = new_place_of_socket(self.folder)
        self._socket = str(self.folder / place)
        log_start = self._log.stat().st_size if self._log.exists() else 0
        # That of a server that crashed, or of the folder that this one is a copy of.
        (self.folder / _PID_NAME).unlink(missing_ok=True)
        # Written first: data must never lie here without the name of the engine that can read it.
        FolderRecord(binary.engine, binary.dotted_version, place, *identity_of(self.folder)).write(
            self._record_file
        )
        try:
            self._spawn(binary, place)
            _ensure_caretaker(self.folder)
            self._wait_ready(log_start)
        except EmbeddedServerError:
            if not self._lives():
                self._undo_launch(record)
            raise
        logger.info("started %s in %s; look into it with: redis-cli -s %s", binary, self.folder, self._socket)

    def _undo_launch(self, record: FolderRecord | None) -> None:
        remove_socket(Path(self._socket))
        if record is None:
            self._record_file.unlink(missing_ok=True)
        else:
            record.write(self._record_file)

    def _spawn(self, binary: ServerBinary, place: str) -> None:
        lock = FileLock(self.folder / "server.lock")
        try:
            if not lock.try_exclusive():
                raise EmbeddedServerError(f"another process holds {lock.path}; end it and try again")
            with open(self._log, "ab", opener=open_private) as log:
                subprocess.run(
                    [os.path.abspath(binary.path), *_settings(place)],
                    cwd=self.folder,
                    umask=_UMASK,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock.fd,),
                    start_new_session=True,
                    timeout=START_SECONDS,
                )
        except subprocess.TimeoutExpired:
            raise EmbeddedServerError(f"{binary.path} did not start within {START_SECONDS:.0f} s") from None
        finally:
            # Closed, not released: the server's copy of the descriptor keeps the lock.
            lock.close()

    def _wait_ready(self, log_start: int | None) -> None:
        deadline = outside() + START_SECONDS
        while not _is_up(reply := ping(self._socket, timeout_seconds=1.0)):
            if reply is not None:  # it loads its data, which may take longer
                deadline = outside() + START_SECONDS
            elif not self._lives():
                raise EmbeddedServerError(
                    f"the server in {self.folder} ended as it started{self._log_tail(log_start)}"
                )
            elif outside() > deadline:
                raise EmbeddedServerError(
                    f"the server in {self.folder} (process {_read_pid(self.folder)}) runs but does not answer at "
                    f"{self._socket}; end that process and try again{self._log_tail(log_start)}"
                )
            time.sleep(_POLL_SECONDS)

    def _log_tail(self, start: int | None) -> str:
        try:
            text = self._log.read_bytes()[start or 0 :].decode(errors="replace")
        except OSError:
            return ""
        lines = text.splitlines()[-_LOG_LINES:]
        return "".join([f"; the end of {self._log}:", *(f"\n  {line}" for line in lines)]) if lines else ""

    def _part(self) -> None:
        """Leave; as the last user, shut the server down. Under the start lock, so that nobody enters meanwhile."""
        moved = None if self._users is None else self._users.moved_to()
        folder = self.folder if moved is None else moved.parent
        try:
            with exclusively(folder / "start.lock", wait_seconds=LOCK_SECONDS):
                self._leave_users()
        except FileNotFoundError:
            self._leave_users()
        except OSError as exc:
            logger.warning("left the server in %s running: %s", folder, exc)
        finally:
            self._close_locks()

    def _leave_users(self) -> None:
        if self._users is not None and self._users.try_exclusive() and self._lives():
            self._shut_down(folder_is_ours=self._users.is_current())

    def _shut_down(self, *, folder_is_ours: bool) -> None:
        """If the folder was deleted or moved, its server still lives (it holds server.lock), and is reached by a signal."""
        refusal = ask(self._socket, "SHUTDOWN", STOP_SECONDS) if folder_is_ours else _terminate(self._pid)
        deadline = outside() + STOP_SECONDS
        while refusal is None and self._lives():
            if outside() > deadline:
                refusal = f"it did not end within {STOP_SECONDS:.0f} s"
            time.sleep(_POLL_SECONDS)
        if refusal is not None:
            logger.warning("the server in %s goes on running: %s", self.folder, refusal)
        elif folder_is_ours:
            remove_socket(Path(self._socket))


def _settings(place: str) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": place,
        "unixsocketperm": "700",
        "dir": ".",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        # A daemon is nobody's child: the process that started it may end first and leaves no zombie to reap.
        "daemonize": "yes",
        "pidfile": _PID_NAME,
        "logfile": _LOG_NAME,
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _is_up(reply: str | None) -> bool:
    """Any answer but LOADING will do: a server whose disk is full refuses PING, and says why to who writes."""
    return reply is not None and not reply.startswith("-LOADING")


def _ensure_caretaker(folder: Path) -> None:
    """Under the start lock, with a server that lives. Without one the last user still ends the server if it can."""
    interpreter = _interpreter()
    locks = [FileLock(folder / f"{name}.lock") for name in ("start", "users", "server", "caretaker")]
    try:
        if interpreter is None or not locks[-1].try_exclusive():
            return
        descriptors = [lock.fd for lock in locks]
        subprocess.run(
            [
                interpreter,
                "-I",
                "-S",
                os.path.abspath(caretaker.__file__),
                *map(str, descriptors),
                str(folder),
            ],
            cwd=folder,
            umask=_UMASK,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
            timeout=START_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        logger.debug("no caretaker for the server in %s: %s", folder, exc)
    finally:
        for lock in locks:
            lock.close()


def _interpreter() -> str | None:
    """None in a program that Python is built into: it would start itself once more."""
    is_python = Path(sys.executable or "").name.lower().startswith(("python", "pypy"))
    return sys.executable if is_python and not getattr(sys, "frozen", False) else None


def _terminate(pid: int) -> str | None:
    """Ask a process to end. None if it was asked, else why not."""
    if not pid:
        return "its process id is not known"
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError as exc:
        return f"process {pid}: {exc.strerror}"
    return None


def _read_pid(folder: Path) -> int:
    try:
        return max(0, int((folder / _PID_NAME).read_text()))
    except (OSError, ValueError):
        return 0


_memberships: dict[Path, _Membership] = {}
_registry = threading.Lock()


def _membership_of(folder: Path) -> _Membership:
    with _registry:
        return _memberships.setdefault(folder, _Membership(folder))


def _leave_all() -> None:
    for membership in list(_memberships.values()):
        membership.leave_at_exit()


def _forget_after_fork() -> None:
    """A forked child is no user until it starts a server itself; its parent's locks are closed in `file_lock`."""
    global _registry
    _registry = threading.Lock()
    _memberships.clear()


atexit.register(_leave_all)
os.register_at_fork(after_in_child=_forget_after_fork)
