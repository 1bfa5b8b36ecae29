"""A small stand-in for redis-cli: sends commands to a server and prints the replies.

It prints as redis-cli does: quoted and numbered on a terminal, the plain values otherwise.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from graphflow.errors import StoreUnreachable
from graphflow.server.address import FULL_REPLY, Address, connected
from graphflow.server.replies import error_of

CONNECT_SECONDS = 2.0
_ESCAPES = {0x5C: "\\\\", 0x22: '\\"', 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x07: "\\a", 0x08: "\\b"}


@dataclass(frozen=True, slots=True)
class Status:
    """A one-line reply such as OK."""

    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An error reply."""

    text: str


Reply = Status | Failure | bytes | int | None | list["Reply"]


class Conversation:
    """A connection that sends commands and reads replies (RESP2), one by one."""

    def __init__(self, target: Address) -> None:
        self.target = target
        try:
            self._socket = _connect(target)
        except OSError as exc:
            raise StoreUnreachable(target.masked, exc.strerror or str(exc)) from exc
        self._stream: BinaryIO = self._socket.makefile("rb")
        if target.password:
            self._greet("AUTH", *([target.username] if target.username else []), target.password)
        if target.db:
            self._greet("SELECT", str(target.db))

    def ask(self, *words: str) -> Reply:
        encoded = [os.fsencode(word) for word in words]
        packed = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
        try:
            # A server that takes no more clients says so and closes at once: there is something to read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._socket.sendall(b"*%d\r\n%b" % (len(words), packed))
            reply = self._read()
        except OSError as exc:
            raise StoreUnreachable(self.target.masked, exc.strerror or str(exc)) from exc
        if isinstance(reply, Failure) and reply.text.startswith(FULL_REPLY):
            raise error_of(reply.text, self.target.masked)
        return reply

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def _greet(self, *words: str) -> None:
        if isinstance(reply := self.ask(*words), Failure):
            self.__exit__()
            raise error_of(self.target.without_password(reply.text), self.target.masked)

    def _read(self) -> Reply:
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return Status(rest.decode(errors="replace"))
            case b"-":
                return Failure(rest.decode(errors="replace"))
            case b":":
                return int(rest)
            case b"$":
                return self._stream.read(int(rest) + 2)[:-2] if int(rest) >= 0 else None
            case b"*":
                return [self._read() for _ in range(int(rest))] if int(rest) >= 0 else None
        raise ConnectionResetError("this is no Redis server")


def _connect(target: Address) -> socket.socket:
    place = str(target.path) if target.kind == "unix" else (target.host, target.port)
    connection = connected(place, CONNECT_SECONDS)
    # A command may take long; whoever waits for it can press Ctrl-C.
    connection.settimeout(None)
    return _encrypted(connection, target) if target.kind == "tls" else connection


def _encrypted(connection: socket.socket, target: Address) -> socket.socket:
    options = dict(target.tls)
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_check_hostname", "").lower() in ("0", "false", "no"):
        context.check_hostname = False
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    return context.wrap_socket(connection, server_hostname=target.host)


def converse(conversation: Conversation, args: Sequence[str]) -> int:
    """Run one command, or those typed at a prompt or piped in, and print the replies. 1 if the last was an error."""
    if args and args[0] == "--scan":
        return _scan(conversation, args[1:])
    if args:
        return _answer(conversation, args)
    code = 0
    for line in _lines():
        try:
            words = shlex.split(line)
        except ValueError as exc:
            print(f"Invalid argument(s): {exc}")
            continue
        if words and words[0].lower() in ("exit", "quit"):
            break
        if words:
            code = _answer(conversation, words)
    return code


def _lines() -> Iterator[str]:
    """Commands as typed at the prompt, or as they come from a pipe."""
    prompt = "redis> " if sys.stdin.isatty() else ""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            yield input(prompt)


def _answer(conversation: Conversation, words: Sequence[str]) -> int:
    reply = conversation.ask(*words)
    _print(reply)
    return int(isinstance(reply, Failure))


def _scan(conversation: Conversation, options: Sequence[str]) -> int:
    """`--scan [--pattern PATTERN]`: every matching key, one a line."""
    match = ["MATCH", options[1]] if len(options) == 2 and options[0] == "--pattern" else []
    if options and not match:
        print("Usage: --scan [--pattern PATTERN]", file=sys.stderr)
        return 1
    cursor = "0"
    while True:
        reply = conversation.ask("SCAN", cursor, *match, "COUNT", "1000")
        if not isinstance(reply, list):
            _print(reply)
            return 1
        found_cursor, keys = reply
        for key in keys if isinstance(keys, list) else []:
            _print(key)
        cursor = found_cursor.decode() if isinstance(found_cursor, bytes) else "0"
        if cursor == "0":
            return 0


def _print(reply: Reply) -> None:
    text = formatted(reply).encode() if sys.stdout.isatty() else raw(reply)
    sys.stdout.flush()
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.flush()


def raw(reply: Reply) -> bytes:
    """A reply as redis-cli writes it into a pipe: values only, one a line."""
    match reply:
        case None:
            return b""
        case list():
            return b"\n".join(raw(element) for element in reply)
        case bytes():
            return reply
        case int():
            return str(reply).encode()
        case Status() | Failure():
            return reply.text.encode()


def formatted(reply: Reply, indent: str = "") -> str:
    """A reply as redis-cli shows it on a terminal: texts quoted, numbers marked, lists numbered."""
    match reply:
        case None:
            return "(nil)"
        case int():
            return f"(integer) {reply}"
        case bytes():
            return _quoted(reply)
        case Status():
            return reply.text
        case Failure():
            return f"(error) {reply.text}"
    if not reply:
        return "(empty array)"
    width = len(str(len(reply)))
    deeper = indent + " " * (width + 2)
    lines = [f"{number:>{width}}) {formatted(element, deeper)}" for number, element in enumerate(reply, 1)]
    return f"\n{indent}".join(lines)


def _quoted(value: bytes) -> str:
    shown = (_ESCAPES.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}") for byte in value)
    return f'"{"".join(shown)}"'
