"""The limit for items: group commit by hand, with redis-py and hiredis and nothing else.

Each item is a task of its own and done when its write is acknowledged; one writer sends what has gathered meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from benchmarks.client import open_client
from benchmarks.occasion import Occasion


async def each_item(occasion: Occasion) -> int:
    async with open_client(occasion.server) as client:
        await _each_item(client, "warm-up", occasion, occasion.warm_up_items)
        with occasion.timed():
            return await _each_item(client, "results", occasion, occasion.items)


async def _each_item(client: Any, key: str, occasion: Occasion, items: range) -> int:
    commit = GroupCommit(client, key)

    async def one(item: int) -> Any:
        result = await occasion.body(item)
        await commit.store(item, result)
        return result

    async with commit:
        return occasion.total(await asyncio.gather(*map(one, items)))


class GroupCommit:
    """Stores results in a hash, as many at a time as came while the writer waited for the server."""

    def __init__(self, client: Any, key: str) -> None:
        self._client = client
        self._key = key
        self._gathered: list[tuple[int, str, asyncio.Future[None]]] = []
        self._something = asyncio.Event()

    async def store(self, index: int, result: Any) -> None:
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gathered.append((index, json.dumps(result), stored))
        self._something.set()
        await stored

    async def __aenter__(self) -> None:
        self._writer = asyncio.create_task(self._write())

    async def __aexit__(self, *_: object) -> None:
        self._writer.cancel()

    async def _write(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            batch, self._gathered = self._gathered, []
            fields: list[int | str] = []
            for index, text, _ in batch:
                fields += (index, text)
            await self._client.execute_command("HSET", self._key, *fields)
            for _, _, stored in batch:
                stored.set_result(None)
