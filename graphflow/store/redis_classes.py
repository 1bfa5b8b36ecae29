"""redis-py's connections and pools as graphflow needs them: fast packing, a pool that waits, a server that comes back.

Importing this file imports redis-py (about 150 ms), so `connection.py` does it when the first connection is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Any

import hiredis
import redis
import redis.asyncio as redis_asyncio
from redis import exceptions
from redis.asyncio.client import Pipeline

from graphflow.store.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    class _AsyncConnection(redis_asyncio.Connection):
        """What the packing mixin is mixed into."""
else:
    _AsyncConnection = object

#: redis-py's own limit on connections, out of the way: the semaphore of `WaitingPool` is the limit.
_NO_LIMIT = sys.maxsize
#: Commands that run scripts.
_SCRIPTS = ("EVALSHA", "EVAL")
_SERVER_GONE = (FileNotFoundError, ConnectionRefusedError)


class _Sending(_AsyncConnection):
    """Sends commands packed in C, and never loses a cancellation while it does.

    redis-py's asyncio connections pack in Python, and send inside `asyncio.wait_for`, which on Python 3.11 drops a
    cancellation that arrives in the tick in which the sending is done.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:
            await super().send_packed_command(command, check_health)
            return
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        assert self._writer is not None
        try:
            self._writer.writelines([command] if isinstance(command, bytes) else command)
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


class TcpConnection(_Sending, redis_asyncio.Connection):
    """redis:// and valkey://"""


class TlsConnection(_Sending, redis_asyncio.SSLConnection):
    """rediss:// and valkeys://"""


class UnixConnection(_Sending, redis_asyncio.UnixDomainSocketConnection):
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
            self.path = await asyncio.to_thread(self._server.start)
            await super()._connect()  # type: ignore[no-untyped-call]


class EmbeddedSyncConnection(redis.UnixDomainSocketConnection):
    """The same for threads."""

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

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        await self._places.acquire()
        try:
            connection = self.get_available_connection()  # type: ignore[no-untyped-call]
        except BaseException:
            self._places.release()
            raise
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        try:
            await super().release(connection)
        finally:
            self._places.release()


class Client(redis_asyncio.Redis):
    """A client that leaves its embedded server, if it has one, when it is closed.

    The errors of its pipelines are the server's own words: redis-py would quote the command, payload included, before
    them (6.4 even instead of them).
    """

    embedded_server: EmbeddedServer | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """A script's reply is taken as it is: redis-py's retries, metrics and conversions of replies would cost a
        commit as much again as sending it."""
        if args[0] not in _SCRIPTS:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        connection = await self.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_command(*args)
            return await connection.read_response()
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
                await _stop(server)


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


async def _stop(server: EmbeddedServer) -> None:
    """Beside the loop, unless the interpreter is about to end and takes no new work for threads."""
    try:
        await asyncio.to_thread(server.stop)
    except RuntimeError:
        server.stop()


def _keep_as_it_is(exception: Exception, number: int, command: object) -> None:
    """Adds nothing to the error of a command in a pipeline."""


def _packable(argument: Any) -> Any:
    return bytes(argument) if isinstance(argument, (bytearray, memoryview)) else argument
