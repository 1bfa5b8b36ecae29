"""A TCP proxy in front of a Redis that gives trouble where a test says: it cuts connections at a command, before or after
it took effect, or altogether; answers with an error in the server's place; is slow; or passes on nothing more.

    async with ChaosProxy(server.socket_path) as proxy:
        proxy.cut(calls_of("commit"), after=True, turns={1})
        ...  # drive a run through proxy.url

`ProxyBeside` is the same in a thread of its own, for processes that are driven by code without an event loop.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Container, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from graphflow.store.scripts import script

Command = list[bytes]


@dataclass(slots=True)
class _Cut:
    matches: Callable[[Command], bool]
    after: bool
    turns: Container[int]
    #: Sent instead of passing the command on; None breaks the connection.
    reply: bytes | None = None
    #: Break it by an RST, not by a FIN.
    resets: bool = False
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
    #: Roles (`run`, `lease`, `events`) whose connections stay open but pass nothing on, to their end.
    holes: set[str] = field(default_factory=set)
    port: int = 0
    _cuts: list[_Cut] = field(default_factory=list)
    _listening: socket.socket | None = None
    _links: dict[asyncio.Task[None], socket.socket] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(
        self, matches: Callable[[Command], bool], *, after: bool, turns: Container[int], resets: bool = False
    ) -> None:
        """Break the connection at these matching commands (from 1): unsent, or `after` the server's reply to them. With
        `resets` the client sees a reset connection instead of the end of one."""
        self._cuts.append(_Cut(matches, after, turns, resets=resets))

    def answer(self, matches: Callable[[Command], bool], error: str, *, turns: Container[int]) -> None:
        """Answer these matching commands (from 1) with an error reply; the server does not see them."""
        self._cuts.append(_Cut(matches, False, turns, f"-{error}\r\n".encode()))

    def cut_no_more(self) -> None:
        """Forget what was to be cut or answered, as far as it has not come."""
        self._cuts.clear()

    async def reset(self) -> None:
        """Reset every connection by an RST; new ones are taken."""
        for link, client in list(self._links.items()):
            _reset_at_close(client)
            link.cancel()
            self.broken += 1

    async def refuse(self, seconds: float) -> None:
        """Drop every connection and take no new ones for a while."""
        await self._close()
        await asyncio.sleep(seconds)
        self._listen()

    async def __aenter__(self) -> ChaosProxy:
        self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    def _listen(self) -> None:
        # Not asyncio's server, which loses a connection that it has accepted in the turn in which it is closed.
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self._listening.setblocking(False)
        self.port = self._listening.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    async def _close(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def _accept(self) -> None:
        assert self._listening is not None
        with suppress(OSError):
            client, _ = self._listening.accept()
            client.setblocking(False)
            link = asyncio.create_task(self._link(client))
            self._links[link] = client
            # Not by the task, which may be cancelled before its first step.
            link.add_done_callback(lambda link: self._links.pop(link).close())

    async def _link(self, client: socket.socket) -> None:
        """One connection, until either side ends it or it is cut."""
        replies: asyncio.Task[None] | None = None
        writer: asyncio.StreamWriter | None = None
        upstream: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_connection(sock=client)
            answers, upstream = await asyncio.open_unix_connection(self.socket_path)
            link = _Link(self)
            replies = asyncio.create_task(link.pass_replies(answers, writer))
            while (read := await _read_command(reader)) is not None:
                raw, command = read
                link.learn_role(command)
                if link.is_dead():
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
                if cut.resets:
                    _reset_at_close(client)
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
    has_lost: bool = False

    def is_dead(self) -> bool:
        """A connection that has lost bytes can only be given up: what came after them would be read as something else."""
        self.has_lost = self.has_lost or self.role in self.proxy.holes
        return self.has_lost

    def learn_role(self, command: Command) -> None:
        """From its name, `graphflow:<role>:<host>:<pid>`."""
        if [word.upper() for word in command[:2]] == [b"CLIENT", b"SETNAME"]:
            self.role = command[2].decode().split(":")[1]

    async def pass_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if seconds := self.proxy.latency():
                    await asyncio.sleep(seconds)
                if not self.is_dead():
                    await self.send(writer, data)
        writer.transport.abort()

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        size = self.proxy.piece_bytes or len(data)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            if size < len(data):
                await asyncio.sleep(0)


class ProxyBeside:
    """A proxy whose event loop runs in a thread, as long as the block lasts."""

    def __init__(self, socket_path: str) -> None:
        self.proxy = ChaosProxy(socket_path)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listens = threading.Event()
        self._is_over = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="chaos-proxy")

    def run(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Do something with the proxy in its loop, and wait for it."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def __enter__(self) -> ProxyBeside:
        self._thread.start()
        assert self._listens.wait(10), "the proxy does not listen"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self.proxy:
            self._listens.set()
            await self._is_over.wait()


def _reset_at_close(client: socket.socket) -> None:
    """A socket that does not linger answers its close with an RST."""
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


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
