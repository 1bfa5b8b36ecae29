"""What happens while the store's memory is full? What runs is still committed; nothing new is started until there is room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from graphflow.errors import StoreError
from graphflow.ids import RunId
from graphflow.store.contract import CommitReply, Store

logger = logging.getLogger(__name__)


class Backpressure:
    """Of one run that is driven. `wake` is called when work may start again; `break_off` with a StoreFull when the
    store's patience has ended before that."""

    def __init__(
        self,
        store: Store,
        run_id: RunId,
        wake: Callable[[], None],
        break_off: Callable[[BaseException], None],
    ) -> None:
        #: Nothing new is to be started.
        self.is_held = False
        self._store = store
        self._run_id = run_id
        self._wake = wake
        self._break_off = break_off
        self._waiting: asyncio.Task[None] | None = None

    def note(self, reply: CommitReply) -> None:
        """Take from a commit whether the store is full."""
        if reply.is_full and not self.is_held:
            logger.warning(
                "run %s: the memory of %s is full; nothing new starts until there is room",
                self._run_id,
                self._store.masked_url,
            )
            self.is_held = True
            self._waiting = asyncio.create_task(self._wait(), name=f"{self._run_id}/memory")

    async def close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.wait([self._waiting])

    async def _wait(self) -> None:
        try:
            await self._store.wait_for_memory(self._run_id)
        except StoreError as error:
            self._break_off(error)
        else:
            self.is_held = False
            self._wake()
