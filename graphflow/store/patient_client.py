"""How is Redis asked? Until there is an answer: only what has the same effect once and twice is asked here.

Reads are such by nature, scripts by their operation ids. A lost reply therefore means to ask again, as does a server
that restarts, has no memory left or cannot write for a while; after the client's patience its error is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from graphflow.errors import CorruptState, StoreBusy, StoreError, StoreFull, StoreUnreachable, WritesRefused
from graphflow.server.address import Address
from graphflow.server.connection import open_client, translate_errors
from graphflow.store.scripts import Argument, script

if TYPE_CHECKING:
    import redis.asyncio

T = TypeVar("T")

#: Seconds between the first two times that something is asked; each further wait is twice as long.
FIRST_WAIT_SECONDS = 0.02
MAX_WAIT_SECONDS = 1.0
#: Entries of a stream read at a time; at least 2, for the first may be known.
PAGE_ENTRIES = 501
#: Fields of a hash in one reply: at first, when nothing is known of their size, and at most.
FIRST_FIELDS = 16
MAX_FIELDS = 500
#: Characters that a reply with several fields should hold at most.
REPLY_CHARACTERS = 4_000_000


#: Troubles that pass.
_PASSING: tuple[type[StoreError], ...] = (StoreUnreachable, WritesRefused, StoreFull)


class PatientClient:
    """A client of one event loop. Every method raises a StoreError, of a key of another type CorruptState."""

    def __init__(self, address: Address, patience_seconds: float) -> None:
        self._process = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._address = address
        self._patience_seconds = patience_seconds
        self._connected: redis.asyncio.Redis | None = None
        self._waiting: redis.asyncio.Redis | None = None
        self._opening = asyncio.Lock()
        #: The hash of which values were read last, and how many of them fit into one reply.
        self._fitting = ("", FIRST_FIELDS)

    async def open(self) -> None:
        """Connect, with patience only for a server that says that it is busy: one that is not there is told at once."""
        self._connected = await self._answer(
            lambda: open_client(self._address, role="run"), passing=(StoreBusy,)
        )
        self._process, self._loop = os.getpid(), asyncio.get_running_loop()

    async def aclose(self) -> None:
        clients = (self._waiting, self._connected)
        self._waiting = self._connected = None
        for client in clients:
            if client is not None:
                await client.aclose()

    @property
    def client(self) -> redis.asyncio.Redis:
        if self._connected is None:
            raise StoreError(f"the store at {self._address.masked} is not open; await open() first")
        if self._process != os.getpid() or self._loop is not asyncio.get_running_loop():
            # Two processes, or two loops, that read from one socket would get each other's replies.
            raise StoreError(
                f"the store at {self._address.masked} was opened in another process or event loop; open one here"
            )
        return self._connected

    async def command(self, command: Callable[[redis.asyncio.Redis], Any], key: str) -> Any:
        """The answer to one command on `key`."""

        async def ask() -> Any:
            with _type_checked(key):
                return await command(self.client)

        return await self._answer(ask)

    async def script(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> list[Any]:
        asked = script(name)
        return await self._answer(lambda: asked.run(self.client, keys, arguments))

    async def hashes(self, keys: Sequence[str]) -> list[dict[str, str]]:
        """Hashes as they are, in one round trip; empty where there is none."""

        async def ask() -> list[Any]:
            async with self.client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hgetall(key)
                return await pipe.execute(raise_on_error=False)

        hashes = await self._answer(ask)
        for key, found in zip(keys, hashes, strict=True):
            if isinstance(found, Exception):
                with translate_errors(self._address), _type_checked(key):
                    raise found
        return hashes

    async def values(self, key: str, fields: Sequence[int]) -> list[str | None]:
        """Some fields of a hash; None for those that are not there."""
        found: list[str | None] = []
        async for texts in self.pages_of_values(key, fields):
            found += texts
        return found

    async def pages_of_values(self, key: str, fields: Sequence[int]) -> AsyncIterator[list[str | None]]:
        """The same, as many at a time as keep the server a short while."""
        known_key, count = self._fitting
        if known_key != key:
            count = FIRST_FIELDS
        start = 0
        while start < len(fields):
            texts = await self._some(key, fields[start : start + count])
            start += len(texts)
            self._fitting = key, count = key, _fitting_count(texts)
            yield texts

    async def _some(self, key: str, fields: Sequence[int]) -> list[str | None]:
        texts: list[str | None] = await self.command(
            lambda client: client.hmget(key, list(map(str, fields))), key
        )
        return texts

    async def field_names(self, key: str) -> list[str]:
        names: list[str] = await self.command(lambda client: client.hkeys(key), key)
        return names

    async def entries(self, key: str, after: str) -> list[tuple[str, dict[str, str]]]:
        """A page of a stream's entries from `after` on, that one included if it is there."""
        entries: list[tuple[str, dict[str, str]]] = await self.command(
            lambda client: client.xrange(key, after, count=PAGE_ENTRIES), key
        )
        return entries

    async def wait_for_entries(self, key: str, after: str, block_ms: int) -> None:
        """Until there is an entry after `after`, or the time is up, or the server sends away whoever waits. On connections
        of its own: others' commands would wait behind it."""
        async with self._opening:
            if self._waiting is None:
                self._waiting = await self._answer(lambda: open_client(self._address, role="events"))
        # What has become of the server the next question finds out, with patience.
        with contextlib.suppress(StoreBusy), translate_errors(self._address), _type_checked(key):
            await self._waiting.xread({key: after}, count=1, block=block_ms)

    async def _answer(
        self, ask: Callable[[], Awaitable[T]], passing: tuple[type[StoreError], ...] = _PASSING
    ) -> T:
        give_up = time.monotonic() + self._patience_seconds
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                return await ask()
            except Exception as error:
                translated = self._translated(error)
                if not isinstance(translated, passing):
                    raise translated from error
                if time.monotonic() + wait > give_up:
                    raise translated from error
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(MAX_WAIT_SECONDS, wait * 2)

    def _translated(self, error: Exception) -> Exception:
        try:
            with translate_errors(self._address):
                raise error
        except Exception as translated:
            return translated


def _fitting_count(texts: Sequence[str | None]) -> int:
    """How many values like these make a reply of a good size."""
    size = sum(len(text) for text in texts if text is not None)
    return max(1, min(MAX_FIELDS, REPLY_CHARACTERS * len(texts) // max(1, size)))


@contextlib.contextmanager
def _type_checked(key: str) -> Iterator[None]:
    from redis.exceptions import ResponseError

    try:
        yield
    except ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            raise CorruptState(key, "it is of another type") from error
        raise
