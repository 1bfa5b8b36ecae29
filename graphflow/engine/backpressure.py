"""What happens while the store's memory is full? What runs is still committed; nothing new is started until there is room."""

from __future__ import annotations

import asyncio
import logging

from graphflow.engine.drive import Drive
from graphflow.errors import StoreError
from graphflow.store.contract import CommitReply

logger = logging.getLogger(__name__)


class Backpressure:
    """Holds the drive while the store is full, and breaks it off with a StoreFull when the store's patience has ended."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._waiting: asyncio.Task[None] | None = None

    def note(self, reply: CommitReply) -> None:
        """Take from a commit whether the store is full."""
        if reply.is_full and not self._drive.is_full:
            logger.warning(
                "run %s: the memory of %s is full; nothing new starts until there is room",
                self._drive.run.id,
                self._drive.store.masked_url,
            )
            self._drive.is_full = True
            self._waiting = asyncio.create_task(self._wait(), name=f"{self._drive.run.id}/memory")

    async def close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.wait([self._waiting])

    async def _wait(self) -> None:
        try:
            await self._drive.store.wait_for_memory(self._drive.run.id)
        except StoreError as error:
            self._drive.break_off(error)
        else:
            self._drive.is_full = False
            self._drive.wake()
