"""The server that contestants share the kind of, not the process: a fresh one for each run, as `.graphflow/` would have it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graphflow.server.address import ping
from graphflow.server.server_binary import ServerBinary, choose_binary

START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One server, reached by two ways."""

    socket: str
    port: int

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@contextlib.contextmanager
def fresh_server() -> Iterator[ServerAddress]:
    """An empty server with an append-only file that is synced once a second, on a socket and on a loopback port."""
    with tempfile.TemporaryDirectory(prefix="gf-bench-") as name:
        folder = Path(name)
        address = ServerAddress(socket=str(folder / "redis.sock"), port=_free_port())
        program = subprocess.Popen(
            [binary().path, *_settings(folder, address)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_until_up(program, address)
            yield address
        finally:
            program.kill()
            program.wait()


def binary() -> ServerBinary:
    """The server program that an embedded folder would get."""
    return choose_binary(Path(tempfile.gettempdir()), None)


def _settings(folder: Path, address: ServerAddress) -> list[str]:
    options = {
        "bind": "127.0.0.1",
        "port": str(address.port),
        "unixsocket": address.socket,
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        # A rewrite would fall into one run and not into another.
        "auto-aof-rewrite-percentage": "0",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _wait_until_up(program: subprocess.Popen[bytes], address: ServerAddress) -> None:
    deadline = time.monotonic() + START_SECONDS
    while ping(address.socket, timeout_seconds=1.0) != "+PONG":
        if program.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{program.args!r} does not answer; run it by hand to see why")
        time.sleep(0.005)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
