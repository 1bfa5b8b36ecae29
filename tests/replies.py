"""What do the servers say when they refuse? Brings each refusal about on the real servers that are there.

    python -m tests.replies

prints the table of docs/server-replies.md. Each trouble is met twice: by a command, and by a script that calls it.
"""

from __future__ import annotations

import binascii
import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from graphflow.server.address import parse_address
from graphflow.server.replies import error_of
from graphflow.server.server_binary import identify
from graphflow.server.small_client import Conversation, Failure, Reply
from tests.helpers import wait_until
from tests.servers import ALL_ENGINES, Engine, RealServer, free_port

#: What the table has of a reply.
SHOWN_CHARACTERS = 160
COMMAND = ("SET", "a", "x")
SCRIPT = ("EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "a")
#: Loads for longer than anybody asks here, and answers every tenth of a second.
LONG_LOG = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nx\r\n" * 200_000
SLOWLY = {"key-load-delay": "100"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply of a server; `way` is "command" or "script"."""

    server: str
    trouble: str
    way: str
    reply: str

    @property
    def shown(self) -> str:
        """The reply without what differs from script to script, and not longer than the table has room for."""
        text = re.sub(r"\b(f_)?[0-9a-f]{40}\b", r"\1HASH", self.reply.strip())
        return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS].rstrip() + "…"

    @property
    def error(self) -> str:
        return type(error_of(self.reply, "redis://")).__name__


class Asked:
    """A server that is asked, and what it refused."""

    def __init__(self, server: RealServer) -> None:
        binary = identify(server.binary)
        assert binary is not None
        self.server = server
        self.name = f"{binary.engine.capitalize()} {binary.version[0]}.{binary.version[1]}"
        self.refusals: list[Refusal] = []

    def ask(self, *words: str, login: str = "") -> Reply:
        with Conversation(parse_address(self.server.url.replace("://", f"://{login}"))) as conversation:
            return conversation.ask(*words)

    def tell(self, *words: str) -> None:
        reply = self.ask(*words)
        assert not isinstance(reply, Failure), (words, reply)

    def note(self, trouble: str, way: str, reply: Reply) -> None:
        assert isinstance(reply, Failure), f"{self.name} did not refuse: {trouble}, {way}: {reply!r}"
        self.refusals.append(Refusal(self.name, trouble, way, reply.text))

    def refuse(self, trouble: str, *, login: str = "", command=COMMAND, script=SCRIPT) -> None:
        """Note how a command and a script are refused now."""
        self.note(trouble, "command", self.ask(*command, login=login))
        self.note(trouble, "script", self.ask(*script, login=login))

    @contextlib.contextmanager
    def answering_later(self, trouble: str, way: str, *words: str) -> Iterator[None]:
        """Note how a command is refused that is under way meanwhile."""
        replies: list[Reply] = []
        thread = threading.Thread(target=lambda: replies.append(self.ask(*words)))
        thread.start()
        yield
        thread.join()
        self.note(trouble, way, replies[0])


def refusals(engine: Engine) -> list[Refusal]:
    """Everything that a server of this engine refuses."""
    with RealServer(engine) as server:
        asked = Asked(server)
        _lacks_something(asked)
        _lacks_rights(asked)
        _runs_a_script(asked)
        _is_a_replica(asked)
        asked.tell("CONFIG", "SET", "requirepass", "secret")
        asked.refuse("no password was given")
    noted = asked.refusals
    for options, look in (
        (SLOWLY, _loads),
        ({"cluster-enabled": "yes", "appendonly": "no"} | _bus(engine), _is_in_a_cluster),
    ):
        server = RealServer(engine, options=options)
        try:
            asked = Asked(server)
            look(asked)
        finally:
            server.stop()
        noted += asked.refusals
    return noted


def _lacks_something(asked: Asked) -> None:
    asked.tell("SET", "filler", "x" * 1000)
    asked.tell("CONFIG", "SET", "maxmemory", "1")
    asked.refuse("memory is full")
    asked.tell("CONFIG", "SET", "maxmemory", "0")

    asked.tell("CONFIG", "SET", "min-replicas-to-write", "1")
    asked.refuse("too few replicas")
    asked.tell("CONFIG", "SET", "min-replicas-to-write", "0")

    fail_to_save(asked)
    asked.refuse("the disk cannot be written")
    asked.tell("CONFIG", "SET", "save", "")


def fail_to_save(asked: Asked) -> None:
    """Have the server find that it cannot write its disk."""
    (asked.server.folder / "dump.rdb").mkdir()
    asked.tell("CONFIG", "SET", "save", "3600 1")
    asked.tell("BGSAVE")
    wait_until(lambda: b"rdb_last_bgsave_status:err" in asked.ask("INFO", "persistence"))


def _lacks_rights(asked: Asked) -> None:
    asked.note("no password is set", "command", asked.ask("AUTH", "secret"))
    asked.tell("ACL", "SETUSER", "user", "on", ">secret", "~gf:*", "-@all", "+eval", "+get", "+select")
    asked.note("wrong password", "command", asked.ask("AUTH", "user", "wrong"))
    login = "user:secret@"
    asked.refuse("no right to the command", login=login, script=(*SCRIPT[:-1], "gf:a"))
    undeclared = ("EVAL", "return redis.call('GET', 'a')", "0")
    asked.refuse("no right to the key", login=login, command=("GET", "a"), script=undeclared)
    if asked.ask("ACL", "SETUSER", "user", "db=0") == asked.ask("SET", "a", "x"):
        asked.note("no right to the database", "command", asked.ask("SELECT", "1", login=login))


def _runs_a_script(asked: Asked) -> None:
    asked.tell("CONFIG", "SET", "lua-time-limit", "1")
    with asked.answering_later("a script was killed", "script", "EVAL", "while true do end", "0"):
        wait_until(lambda: isinstance(asked.ask("PING"), Failure))
        asked.refuse("a script takes long")
        asked.tell("SCRIPT", "KILL")


def _is_a_replica(asked: Asked) -> None:
    waiting = ("XREAD", "BLOCK", "0", "STREAMS", "stream", "$")
    with asked.answering_later("it became a replica meanwhile", "command", *waiting):
        wait_until(lambda: b"blocked_clients:1" in asked.ask("INFO", "clients"))
        asked.tell("REPLICAOF", "127.0.0.1", "1")
    asked.refuse("it is a replica")
    asked.tell("CONFIG", "SET", "replica-serve-stale-data", "no")
    asked.refuse("it is a replica without its primary", command=("GET", "a"))
    asked.tell("REPLICAOF", "NO", "ONE")


def _loads(asked: Asked) -> None:
    # An old form, which newer servers take over.
    (asked.server.folder / "appendonly.aof").write_bytes(LONG_LOG)
    asked.server.start(until_loaded=False)
    asked.refuse("it loads its data")


def _bus(engine: Engine) -> dict[str, str]:
    """Settings for a free port for the other nodes of a cluster; before 7.0 it is that for clients and 10,000 more."""
    if engine != "6.2":
        return {"cluster-port": str(free_port())}
    return {"port": str(free_port() - 10_000)}


def _is_in_a_cluster(asked: Asked) -> None:
    asked.server.start()
    asked.refuse("nobody serves the slot")

    last = next(str(n) for n in range(1_000_000) if binascii.crc_hqx(str(n).encode(), 0) % 16384 == 16383)
    asked.tell("CONFIG", "SET", "cluster-allow-reads-when-down", "yes")
    asked.tell("CLUSTER", "ADDSLOTS", *map(str, range(16383)))
    asked.refuse("the cluster is down")

    asked.tell("CONFIG", "SET", "cluster-require-full-coverage", "no")
    wait_until(lambda: b"cluster_state:ok" in asked.ask("CLUSTER", "INFO"))
    asked.refuse("keys of two slots", command=("MGET", "a", "b"), script=(*SCRIPT[:2], "2", "a", "b"))
    undeclared = ("EVAL", f"return redis.call('GET', '{last}')", "0")
    asked.note("another node's key in a script", "script", asked.ask(*undeclared))


def rows(found: list[Refusal]) -> list[str]:
    """Lines of the table, servers that say the same in one."""
    servers: dict[tuple[str, str, str, str], list[str]] = {}
    for refusal in found:
        row = (refusal.trouble, refusal.way, refusal.shown, refusal.error)
        servers.setdefault(row, []).append(refusal.server)
    order = list(dict.fromkeys((refusal.trouble, refusal.way) for refusal in found))
    return [
        f"| {trouble} | {way} | {', '.join(names)} | `{reply}` | `{error}` |"
        for (trouble, way, reply, error), names in sorted(
            servers.items(), key=lambda item: order.index(item[0][:2])
        )
    ]


if __name__ == "__main__":
    noted = [
        refusal
        for engine in ("6.2", "7.0", "8.2", "current")
        if engine in ALL_ENGINES
        for refusal in refusals(engine)
    ]
    print("| trouble | met by | server | reply | error |", "|---|---|---|---|---|", *rows(noted), sep="\n")
