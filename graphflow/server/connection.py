"""How does graphflow talk to a store? Opens redis-py clients with every setting said, and translates their errors.

redis-py is told never to retry: it would apply a write again whose reply was lost. Who retries is the caller, who can
tell by the operation id whether the first try took effect.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graphflow.beside_loop import beside_loop
from graphflow.errors import GraphflowError
from graphflow.server.address import Address
from graphflow.server.memory_server import memory_server
from graphflow.server.replies import error_of_exception

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from graphflow.server.embedded import EmbeddedServer

CONNECT_SECONDS = 2.0
#: Seconds to wait for a reply. Longer than any blocking read that graphflow makes (2 s).
REPLY_SECONDS = 5.0
#: A connection idle for this many seconds is tried with a PING before it is used.
HEALTH_CHECK_SECONDS = 30
MAX_CONNECTIONS = 16


async def open_client(
    address: Address,
    *,
    role: str,
    max_connections: int = MAX_CONNECTIONS,
    reply_seconds: float = REPLY_SECONDS,
) -> redis.asyncio.Redis:
    """A client of the running event loop that has answered a PING; texts come back as str, never bytes.

    `CLIENT LIST` shows its connections as `graphflow:<role>:<host>:<pid>`. At most `max_connections` are opened; more
    commands at a time wait. `aclose()` also leaves an embedded server. Raises `StoreError`s (see `translate_errors`).
    """
    if address.kind == "memory":
        return _fake_client(address.name)
    from redis.asyncio.retry import Retry

    from graphflow.server.redis_classes import Client, WaitingPool

    server, target = await beside_loop(_resolve, address)
    pool = WaitingPool(
        size=max_connections,
        connection_class=_connection_class(address),
        retry=_never(Retry),
        **_settings(target, role, reply_seconds, server),
    )
    client = cast("Client", Client.from_pool(pool))
    client.embedded_server = server
    try:
        with translate_errors(address):
            await client.ping()
    except BaseException:
        await client.aclose()
        raise
    return client


def open_sync_client(address: Address, *, role: str, reply_seconds: float = REPLY_SECONDS) -> redis.Redis:
    """A client for one thread, like that of `open_client`; `close()` leaves an embedded server."""
    if address.kind == "memory":
        return _fake_sync_client(address.name)
    from redis.retry import Retry

    from graphflow.server import redis_classes

    server, target = _resolve(address)
    classes: dict[str, Any] = {
        "tcp": redis_classes.SyncTcpConnection,
        "tls": redis_classes.SyncTlsConnection,
        "unix": redis_classes.SyncUnixConnection,
        "embedded": redis_classes.EmbeddedSyncConnection,
    }
    pool = redis_classes.SyncPool(  # type: ignore[no-untyped-call]
        max_connections=1,
        timeout=None,
        connection_class=classes[address.kind],
        retry=_never(Retry),
        **_settings(target, role, reply_seconds, server),
    )
    client = cast("redis_classes.SyncClient", redis_classes.SyncClient.from_pool(pool))
    client.embedded_server = server
    try:
        with translate_errors(address):
            client.ping()
    except BaseException:
        client.close()
        raise
    return client


@contextlib.contextmanager
def translate_errors(address: Address) -> Iterator[None]:
    """Raise what redis-py raises inside the block as graphflow's own errors, with the password masked.

    `StoreUnreachable` (no answer, or, `StoreBusy`, not yet: try again), `StoreFull`, `WritesRefused` (pause),
    `AccessDenied`, `ClusterMember` (give up), `StoreError` for any other error reply (see `replies.py`). After a lost
    connection it is unknown whether a command took effect.
    """
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError) as exc:
        # What goes wrong while a connection is made, redis-py wraps in a ConnectionError.
        cause = exc.__cause__
        if isinstance(cause, GraphflowError):
            raise cause from None
        _hide_login(exc, address)
        answered = cause if isinstance(cause, RedisError) else exc
        raise error_of_exception(answered, address.masked) from exc


def _hide_login(exc: BaseException, address: Address) -> None:
    """A server that does not know a command quotes it, AUTH too; the quote would be printed below our own error."""
    pending: list[BaseException | None] = [exc]
    seen: set[int] = set()
    while pending:
        below = pending.pop()
        # An error that was translated more than once may stand above itself.
        if below is None or id(below) in seen:
            continue
        seen.add(id(below))
        below.args = tuple(
            address.without_password(arg) if isinstance(arg, str) else arg for arg in below.args
        )
        pending += [below.__cause__, below.__context__]


def _resolve(address: Address) -> tuple[EmbeddedServer | None, Address]:
    """Where to connect: the address itself, or the socket of an embedded server, which is running afterwards."""
    if address.kind != "embedded" or address.path is None:
        return None, address
    from graphflow.server.embedded import EmbeddedServer

    server = EmbeddedServer(address.path)
    return server, Address("unix", path=Path(server.start()))


def _settings(
    target: Address, role: str, reply_seconds: float, server: EmbeddedServer | None
) -> dict[str, Any]:
    """Everything that redis-py would otherwise choose by its version: its defaults changed from 5 to 6 and to 8."""
    settings: dict[str, Any] = {
        "db": target.db,
        "username": target.username,
        "password": target.password,
        "protocol": 2,
        "encoding": "utf-8",
        "encoding_errors": "strict",
        "decode_responses": True,
        "socket_timeout": reply_seconds,
        "socket_connect_timeout": CONNECT_SECONDS,
        "health_check_interval": HEALTH_CHECK_SECONDS,
        "client_name": client_name(role),
        **_nameless_driver(),
    }
    if target.kind == "unix":
        settings["path"] = str(target.path)
    else:
        settings |= {"host": target.host, "port": target.port, "socket_keepalive": True}
    if target.kind == "tls":
        settings |= _tls_settings(dict(target.tls))
    if server is not None:
        settings["server"] = server
    return settings


def _nameless_driver() -> dict[str, None]:
    """redis-py is not to tell its own name: a user would need a right to that, which Redis before 7.2 does not know."""
    from redis.connection import AbstractConnection

    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters:
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}


def client_name(role: str) -> str:
    """`graphflow:<role>:<host>:<pid>`, in the characters that CLIENT SETNAME takes."""
    host = re.sub(r"[^\w.-]", "-", socket.gethostname(), flags=re.ASCII)
    return f"graphflow:{role}:{host}:{os.getpid()}"


def _tls_settings(options: dict[str, str]) -> dict[str, Any]:
    """The certificate and the host's name are checked unless the address says otherwise; redis-py 5 skips the name."""
    checked = options.get("ssl_cert_reqs", "required") != "none"
    named = options.get("ssl_check_hostname", "true").lower() not in ("0", "false", "no")
    return {"ssl_cert_reqs": "required", **options, "ssl_check_hostname": checked and named}


def _connection_class(address: Address) -> Any:
    from graphflow.server import redis_classes

    return {
        "tcp": redis_classes.TcpConnection,
        "tls": redis_classes.TlsConnection,
        "unix": redis_classes.UnixConnection,
        "embedded": redis_classes.EmbeddedConnection,
    }[address.kind]


def _never(retry_class: Any) -> Any:
    from redis.backoff import NoBackoff

    return retry_class(NoBackoff(), 0)


def _fake_client(name: str) -> redis.asyncio.Redis:
    server = memory_server(name)
    import fakeredis

    client: redis.asyncio.Redis = fakeredis.FakeAsyncRedis(server=server, decode_responses=True)
    return client


def _fake_sync_client(name: str) -> redis.Redis:
    server = memory_server(name)
    import fakeredis

    client: redis.Redis = fakeredis.FakeRedis(server=server, decode_responses=True)
    return client
