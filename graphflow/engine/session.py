"""The open store of an agent in one event loop, shared by all runs under way there and closed after the last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from graphflow.engine.heartbeat import Heartbeat
from graphflow.store.contract import Store


@dataclass(slots=True)
class Session:
    """A store that is open, with the heartbeat of the leases that were taken through it."""

    store: Store
    heartbeat: Heartbeat


@dataclass(slots=True)
class _Shared:
    session: Session
    opened: asyncio.Future[None]
    users: int = 0


@dataclass(slots=True)
class Sessions:
    """Sessions by event loop. `open` gives the session of the running loop."""

    make_store: Callable[[], Store]
    _by_loop: dict[asyncio.AbstractEventLoop, _Shared] = field(default_factory=dict)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Session]:
        """The session, open; closed when its last user leaves. StoreError if the store cannot be reached."""
        loop = asyncio.get_running_loop()
        shared = self._by_loop.get(loop)
        if shared is None:
            shared = self._by_loop[loop] = self._start()
        shared.users += 1
        try:
            await asyncio.shield(shared.opened)
            yield shared.session
        finally:
            shared.users -= 1
            if not shared.users:
                self._by_loop.pop(loop, None)
                await _close(shared)

    def _start(self) -> _Shared:
        store = self.make_store()
        return _Shared(Session(store, Heartbeat(store.renewer)), asyncio.ensure_future(store.open()))


async def _close(shared: _Shared) -> None:
    shared.opened.cancel()
    await asyncio.to_thread(shared.session.heartbeat.close)
    await shared.session.store.aclose()
