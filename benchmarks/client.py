"""redis-py as fast as it goes: commands packed by hiredis, replies read by hiredis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import redis.asyncio as redis

from benchmarks.server import ServerAddress


class _Connection(redis.UnixDomainSocketConnection):
    def pack_command(self, *args: Any) -> list[bytes]:
        first, *rest = args
        return [hiredis.pack_command((*first.split(), *rest))]


@asynccontextmanager
async def open_client(server: ServerAddress) -> AsyncIterator[Any]:
    """A client with one connection, which is open."""
    pool = redis.ConnectionPool(connection_class=_Connection, path=server.socket, max_connections=1)
    async with redis.Redis.from_pool(pool) as client:
        await client.ping()
        yield client
