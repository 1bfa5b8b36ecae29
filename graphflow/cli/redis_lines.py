"""What does a person type to look at a run with redis-cli? The commands, with the real socket and keys."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Sequence

from graphflow.server.address import Address, find_address
from graphflow.server.cli_client import redis_cli_arguments
from graphflow.server.embedded import EmbeddedServer
from graphflow.store.keys import StoreKeys


def redis_cli_line(address: Address, *words: str) -> str:
    """A command for the shell. A password is asked for, never shown."""
    return f"{_redis_cli(address)} {shlex.join(words)}"


def own_client_line(address: Address, *words: str) -> str:
    """The same through `graphflow redis-cli`, which needs no redis-cli and starts an embedded server for the look."""
    is_found = find_address(None, os.environ) == address
    options = [] if is_found else ["--url", address.masked]
    return shlex.join(["graphflow", "redis-cli", *options, *words])


def lines_for_look(address: Address, keys: StoreKeys, run_id: str) -> Iterator[str]:
    """How to look at a run that has just begun; nothing for a store inside this process."""
    if address.kind == "memory":
        return
    words = ("hgetall", keys.run(run_id).run)
    yield f"look at it: {redis_cli_line(address, *words)}"
    if not (shutil.which("redis-cli") or shutil.which("valkey-cli")):
        yield f"no redis-cli here? {own_client_line(address, *words)}"


def lines_for_run(
    address: Address, store_keys: StoreKeys, run_id: str, *, maps: Sequence[str], state_key: str
) -> Iterator[str]:
    """A comment and a command in turn. `maps` are the run's map nodes, `state_key` one key of its state."""
    keys = store_keys.run(run_id)
    looks: list[tuple[str, tuple[str, ...]]] = [
        ("the latest runs", ("zrevrange", store_keys.runs, "0", "4")),
        ("the run: status, owner, progress, error", ("hgetall", keys.run)),
        ("its nodes, one word each", ("hgetall", keys.nodes)),
        *((f"how far the map {name} is", ("hgetall", keys.map(name))) for name in maps),
        ("a value of its state, as JSON", ("hget", keys.state, state_key)),
        ("the last facts, by name", ("xrevrange", keys.events, "+", "-", "count", "5")),
        ("every key of the run", ("--scan", "--pattern", f"{keys.run}*")),
        ("who is connected", ("client", "list")),
    ]
    for comment, words in looks:
        yield f"# {comment}"
        yield redis_cli_line(address, *words)
    if address.kind == "embedded":
        yield "# when nothing runs in this folder its server is down; this starts it for one look"
        yield own_client_line(address, "hgetall", keys.run)


def _redis_cli(address: Address) -> str:
    if address.kind == "embedded" and address.path is not None:
        return EmbeddedServer(address.path).redis_cli_command()
    words = ["redis-cli", *redis_cli_arguments(address)]
    return shlex.join([*words, "--askpass"] if address.password else words)
