"""A TCP proxy in front of a Redis that gives trouble where a test says: it cuts connections at a command, before or after
it took effect, or altogether; answers with an error in the server's place; is slow; or passes on nothing more.

    async with ChaosProxy(server.socket_path) as proxy:
        proxy.cut(calls_of("commit"), after=True, turns={1})
        ...  # drive a run through proxy.url
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, field

from graphflow.store.scripts import script

Command = list[bytes]


@dataclass(slots=True)
class _Cut:
    matches: Callable[[Command], bool]
    after: bool
    turns: Container[int]
    #: Sent instead of passing the command on; None breaks the connection.
    reply: bytes | None = None
    seen: int = 0

    def applies(self, command: Command) -> bool:
        if not self.matches(command):
            return False
        self.seen += 1
        return self.seen in self.turns


@dataclass(slots=True)
class ChaosProxy:
    """Passes commands one by one to the server on a unix socket. Belongs to the event loop that enters it."""

    socket_path: str
    #: Connections broken so far.
    broken: int = 0
    #: Commands answered by the proxy so far.
    answered: int = 0
    #: Seconds by which each reply comes later.
    latency: Callable[[], float] = lambda: 0.0
    #: Send everything on in pieces of this many bytes; 0 as it comes.
    piece_bytes: int = 0
    #: Roles (`run`, `lease`, `events`) whose connections stay open but pass nothing on.
    holes: set[str] = field(default_factory=set)
    port: int = 0
    _cuts: list[_Cut] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _links: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self, matches: Callable[[Command], bool], *, after: bool, turns: Container[int]) -> None:
        """Break the connection at these matching commands (from 1): unsent, or `after` the server's reply to them."""
        self._cuts.append(_Cut(matches, after, turns))

    def answer(self, matches: Callable[[Command], bool], error: str, *, turns: Container[int]) -> None:
        """Answer these matching commands (from 1) with an error reply; the server does not see them."""
        self._cuts.append(_Cut(matches, False, turns, f"-{error}\r\n".encode()))

    async def refuse(self, seconds: float) -> None:
        """Drop every connection and take no new ones for a while."""
        await self._close()
        await asyncio.sleep(seconds)
        await self._listen()

    async def __aenter__(self) -> ChaosProxy:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it or it is cut."""
        replies: asyncio.Task[None] | None = None
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_unix_connection(self.socket_path)
            link = _Link(self)
            replies = asyncio.create_task(link.pass_replies(answers, writer))
            while (read := await _read_command(reader)) is not None:
                raw, command = read
                link.learn_role(command)
                if link.is_in_hole:
                    continue
                cut = next((cut for cut in self._cuts if cut.applies(command)), None)
                if cut is None:
                    await link.send(upstream, raw)
                    continue
                if cut.reply is not None:
                    self.answered += 1
                    writer.write(cut.reply)
                    continue
                self.broken += 1
                if cut.after:
                    replies.cancel()
                    await asyncio.gather(replies, return_exceptions=True)
                    upstream.write(raw)
                    await answers.read(1)
                return
        except OSError:
            pass
        finally:
            if replies is not None:
                replies.cancel()
            for side in (upstream, writer):
                if side is not None:
                    side.transport.abort()


@dataclass(slots=True)
class _Link:
    """What is done to the bytes of one connection."""

    proxy: ChaosProxy
    role: str = ""

    @property
    def is_in_hole(self) -> bool:
        return self.role in self.proxy.holes

    def learn_role(self, command: Command) -> None:
        """From its name, `graphflow:<role>:<host>:<pid>`."""
        if [word.upper() for word in command[:2]] == [b"CLIENT", b"SETNAME"]:
            self.role = command[2].decode().split(":")[1]

    async def pass_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if seconds := self.proxy.latency():
                    await asyncio.sleep(seconds)
                if not self.is_in_hole:
                    await self.send(writer, data)
        writer.transport.abort()

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        size = self.proxy.piece_bytes or len(data)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            if size < len(data):
                await asyncio.sleep(0)


async def _read_command(reader: asyncio.StreamReader) -> tuple[bytes, Command] | None:
    """The next command as it came and as its words; None at the end of the connection."""
    try:
        raw = await reader.readuntil(b"\r\n")
        command: Command = []
        for _ in range(int(raw[1:])):
            head = await reader.readuntil(b"\r\n")
            body = await reader.readexactly(int(head[1:]) + 2)
            raw += head + body
            command.append(body[:-2])
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return raw, command


def calls_of(name: str) -> Callable[[Command], bool]:
    """Matches calls of graphflow's script of this name, by hash or by text."""
    wanted = script(name)
    words = {b"EVALSHA": wanted.sha.encode(), b"EVAL": wanted.text.encode()}
    return lambda command: len(command) > 1 and words.get(command[0].upper()) == command[1]
