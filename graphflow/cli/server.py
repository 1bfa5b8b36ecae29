"""`graphflow server` keeps an embedded server up in the foreground; `graphflow redis-cli` looks into a store."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence

import typer

from graphflow.cli.faces import Face
from graphflow.cli.run import start_logging
from graphflow.server import cli_client
from graphflow.server.address import parse_address
from graphflow.server.embedded import EmbeddedServer
from graphflow.store.opening import address_of, is_there

#: Seconds between two looks at whether the server still runs.
LOOK_SECONDS = 1.0


def serve(*, url: str | None) -> None:
    """Until Ctrl-C or SIGTERM; a server that ends meanwhile is started again."""
    start_logging(verbose=False)
    address = parse_address(url or "embedded://")
    if address.kind != "embedded" or address.path is None:
        raise typer.BadParameter(
            f"{address.masked} has a server of its own; graphflow server serves embedded:// only"
        )
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    face = Face()
    with EmbeddedServer(address.path) as server:
        face.say(f"serving {address.masked}; stop it with Ctrl-C")
        face.say(f"look into it: {server.redis_cli_command()}")
        while not stopped.wait(LOOK_SECONDS):
            server.start()


def run_redis_cli(words: Sequence[str], *, url: str | None) -> int:
    """The exit code of redis-cli; 3 where no embedded store is yet."""
    start_logging(verbose=False)
    address = address_of(url)
    if not is_there(address):
        Face(to_stderr=True).say(f"there is no store at {address.masked} yet; `graphflow demo` makes one")
        return 3
    return cli_client.run_redis_cli(address, words)
