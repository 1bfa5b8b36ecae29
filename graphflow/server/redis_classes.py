"""redis-py's connections and pools as graphflow needs them: short ways, a pool that waits, a server that comes back.

Importing this file imports redis-py (about 150 ms), so `connection.py` does it when the first connection is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, cast

import hiredis
import redis
import redis.asyncio as redis_asyncio
from redis import exceptions
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.client import Pipeline

from graphflow.beside_loop import beside_loop
from graphflow.server.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    class _AsyncConnection(redis_asyncio.Connection):
        """What the packing mixin is mixed into."""

    class _SyncConnection(redis.Connection):
        """The same for threads."""
else:
    _AsyncConnection = _SyncConnection = object

#: redis-py's own limit on connections, out of the way: the semaphore of `WaitingPool` is the limit.
_NO_LIMIT = sys.maxsize
#: Commands that go the short way: scripts, and what reads the records of maps.
_DIRECT = frozenset({"EVALSHA", "EVAL", "HMGET"})
_SERVER_GONE = (FileNotFoundError, ConnectionRefusedError)
#: For timers: the context of whoever happens to ask is not to be kept alive by them.
_NOBODYS_CONTEXT = contextvars.Context()


class _Direct(_AsyncConnection):
    """Sends commands packed in C, never loses a cancellation while it does, and has a short way to a reply.

    redis-py's asyncio connections pack in Python, and send inside `asyncio.wait_for`, which on Python 3.11 drops a
    cancellation that arrives in the tick in which the sending is done.
    """

    #: When the command was sent whose reply `ask` waits for, on the loop's clock.
    _asked_at: float | None = None
    _look: asyncio.TimerHandle | None = None
    _is_overdue = False

    @property
    def is_at_rest(self) -> bool:
        """It is connected, and nothing has come that nobody asked for, not even the end."""
        reader = self._reader
        # As redis-py does, for want of a public way to ask.
        return reader is not None and not (reader._buffer or reader.at_eof() or reader.exception())  # type: ignore[attr-defined]

    async def ask(self, *command: Any) -> Any:
        """The reply to one command as it is. Between commands and their replies redis-py puts retries, metrics, a timer
        for each and conversions: together they take as long as a commit."""
        loop = asyncio.get_running_loop()
        if not self.is_connected or loop.time() > self.next_health_check:
            await self.send_command(*command)
        else:
            await self.send_packed_command(self.pack_command(*command), check_health=False)
        self._asked_at = asked_at = loop.time()
        if self._look is None:
            self._look_at_clock()
        try:
            reply = await self._received()
        except BaseException:
            # The reply may still come: nobody may use this connection again.
            await self.disconnect(nowait=True)
            raise
        finally:
            self._asked_at = None
        self.next_health_check = asked_at + self.health_check_interval
        if isinstance(reply, Exception):
            if isinstance(reply, exceptions.ConnectionError):
                await self.disconnect(nowait=True)
            raise reply
        return reply

    async def _received(self) -> Any:
        stream, replies = self._reader, cast(Any, self._parser)._reader
        assert stream is not None
        while (reply := replies.gets()) is NOT_ENOUGH_DATA:
            try:
                received = await stream.read(self._socket_read_size)
            except OSError as exc:
                raise exceptions.ConnectionError(f"Error while reading from socket. {exc}.") from exc
            if not received:
                if self._is_overdue:
                    raise exceptions.TimeoutError("Timeout reading from socket")
                raise exceptions.ConnectionError("Connection closed by server.")
            replies.feed(received)
        return reply

    def _look_at_clock(self) -> None:
        """One timer for all commands: it looks whether the reply to the latest is overdue."""
        self._look = None
        if self._asked_at is None or self._writer is None or self.socket_timeout is None:
            return
        loop = asyncio.get_running_loop()
        left = self._asked_at + self.socket_timeout - loop.time()
        if left > 0:
            self._look = loop.call_later(left, self._look_at_clock, context=_NOBODYS_CONTEXT)
        else:
            self._is_overdue = True
            self._writer.transport.abort()

    async def on_connect(self) -> None:
        with _refusal_heard(self._writer.get_extra_info("socket"), self._reader):  # type: ignore[union-attr]
            await super().on_connect()

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """What redis-py from 6 on calls in the place of `on_connect`."""
        with _refusal_heard(self._writer.get_extra_info("socket"), self._reader):  # type: ignore[union-attr]
            await super().on_connect_check_health(check_health)

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:
            await super().send_packed_command(command, check_health)
            return
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        assert self._writer is not None
        try:
            # Not `writelines`: on Python 3.12 it ends in an AttributeError where the connection was lost meanwhile.
            self._writer.write(command if isinstance(command, bytes) else b"".join(command))
            # Nearly always the socket has taken everything at once.
            if self._writer.transport.get_write_buffer_size():
                async with asyncio.timeout(self.socket_timeout):
                    await self._writer.drain()
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise exceptions.TimeoutError("Timeout writing to socket") from None
        except OSError as exc:
            await self.disconnect(nowait=True)
            raise exceptions.ConnectionError(f"Error while writing to socket. {exc}.") from exc
        except BaseException:
            # Half a command may have been sent: nobody may use this connection again.
            await self.disconnect(nowait=True)
            raise

    async def disconnect(self, *args: Any, **options: Any) -> None:
        writer, reader = self._writer, self._reader
        if self._look is not None:
            self._look.cancel()
        self._look, self._is_overdue = None, False
        await super().disconnect(*args, **options)
        if writer is not None and reader is not None and reader.exception() is not None:
            # Already over, by the error that the reader has met. It is asked for here, for asyncio would else log it as
            # never retrieved whenever the garbage collector comes by in an unlucky order.
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def pack_command(self, *args: Any) -> list[bytes]:
        name, *arguments = args
        # redis-py names some commands by two words ("SCRIPT LOAD"); on the wire they are two arguments.
        words: Sequence[Any] = name.split() if isinstance(name, (str, bytes)) else (name,)
        try:
            return [hiredis.pack_command((*words, *arguments))]
        except TypeError:
            pass
        try:
            return [hiredis.pack_command((*words, *map(_packable, arguments)))]
        except TypeError as exc:
            raise exceptions.DataError(str(exc)) from exc


class TcpConnection(_Direct, redis_asyncio.Connection):
    """redis:// and valkey://"""


class TlsConnection(_Direct, redis_asyncio.SSLConnection):
    """rediss:// and valkeys://"""


class UnixConnection(_Direct, redis_asyncio.UnixDomainSocketConnection):
    """unix://"""


class EmbeddedConnection(UnixConnection):
    """embedded://: if the server has crashed, the next connect starts it again."""

    def __init__(self, *, server: EmbeddedServer, **options: Any) -> None:
        super().__init__(**options)
        self._server = server

    async def _connect(self) -> None:
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except _SERVER_GONE:
            self.path = await beside_loop(self._server.start)
            await super()._connect()  # type: ignore[no-untyped-call]


class _Listening(_SyncConnection):
    """Reads what the server has said before it closed."""

    def on_connect(self) -> None:
        with _refusal_heard(self._sock):
            super().on_connect()  # type: ignore[no-untyped-call]

    def on_connect_check_health(self, check_health: bool = True) -> None:
        with _refusal_heard(self._sock):
            super().on_connect_check_health(check_health)


class SyncTcpConnection(_Listening, redis.Connection):
    """redis:// and valkey:// for threads."""


class SyncTlsConnection(_Listening, redis.SSLConnection):
    """rediss:// and valkeys:// for threads."""


class SyncUnixConnection(_Listening, redis.UnixDomainSocketConnection):
    """unix:// for threads."""


class EmbeddedSyncConnection(SyncUnixConnection):
    """embedded:// for threads."""

    def __init__(self, *, server: EmbeddedServer, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._server = server

    def _connect(self) -> socket.socket:
        try:
            return self._connected()
        except _SERVER_GONE:
            self.path = self._server.start()
            return self._connected()

    def _connected(self) -> socket.socket:
        connected: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
        return connected


class WaitingPool(redis_asyncio.ConnectionPool):
    """At most `size` connections; who finds none free waits, however long.

    redis-py's BlockingConnectionPool waits too, but on Python 3.11 its asyncio.Condition forgets a wake-up whose
    waiter is cancelled in the same moment: all others then wait for ever beside a free connection. A semaphore passes
    the wake-up on.
    """

    def __init__(self, *, size: int, **options: Any) -> None:
        super().__init__(max_connections=_NO_LIMIT, **options)
        self._places = asyncio.Semaphore(size)

    def __repr__(self) -> str:
        return _place(self)

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        await self._places.acquire()
        try:
            connection = self.get_available_connection()  # type: ignore[no-untyped-call]
        except BaseException:
            self._places.release()
            raise
        if connection.is_at_rest:
            return connection
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        # redis-py's own also reports to whoever changes credentials or counts connections: graphflow has neither.
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)
        self._places.release()


class SyncPool(redis.BlockingConnectionPool):
    """redis-py's, printed without its password."""

    def __repr__(self) -> str:
        return _place(self)


class Client(redis_asyncio.Redis):
    """A client that leaves its embedded server, if it has one, when it is closed.

    The errors of its pipelines are the server's own words: redis-py would quote the command, payload included, before
    them (6.4 even instead of them).
    """

    embedded_server: EmbeddedServer | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] not in _DIRECT:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        connection = await self.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            return await connection.ask(*args)
        finally:
            await self.connection_pool.release(connection)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        pipeline = super().pipeline(transaction, shard_hint)
        pipeline.annotate_exception = _keep_as_it_is  # type: ignore[method-assign]
        return pipeline

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        try:
            await super().aclose(close_connection_pool)
        finally:
            server, self.embedded_server = self.embedded_server, None
            if server is not None:
                await beside_loop(server.stop)


class SyncClient(redis.Redis):
    """The same for threads."""

    embedded_server: EmbeddedServer | None = None

    def close(self) -> None:
        try:
            super().close()
        finally:
            server, self.embedded_server = self.embedded_server, None
            if server is not None:
                server.stop()


def _place(pool: redis.ConnectionPool | redis_asyncio.ConnectionPool) -> str:
    """redis-py before 8 prints all settings of a pool, the password too; so do its warnings of unclosed clients."""
    settings = pool.connection_kwargs
    return f"<{type(pool).__name__} {settings.get('path') or '{host}:{port}'.format(**settings)}>"


@contextlib.contextmanager
def _refusal_heard(connected: Any, reader: asyncio.StreamReader | None = None) -> Iterator[None]:
    """A server that takes no more clients says so and closes at once, so that the first command may fail before it is
    sent. What was said lies in the socket then, which a duplicate keeps from being closed, or already in the reader."""
    with socket.socket(fileno=os.dup(connected.fileno())) as kept:
        try:
            yield
        except exceptions.ConnectionError as exc:
            if type(exc) is not exceptions.ConnectionError:
                raise  # such as a wrong password: it was read
            said = bytes(reader._buffer) if reader is not None else b""  # type: ignore[attr-defined]
            with contextlib.suppress(OSError):
                said += kept.recv(1024, socket.MSG_DONTWAIT)
            line, is_whole, _ = said.partition(b"\r\n")
            if not is_whole or not line.startswith(b"-"):
                raise
            raise exceptions.ConnectionError(line[1:].decode(errors="replace").removeprefix("ERR ")) from None


def _keep_as_it_is(exception: Exception, number: int, command: object) -> None:
    """Adds nothing to the error of a command in a pipeline."""


def _packable(argument: Any) -> Any:
    return bytes(argument) if isinstance(argument, (bytearray, memoryview)) else argument
