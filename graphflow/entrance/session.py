"""The open store of an agent in one event loop, shared by all runs under way there and closed after the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from graphflow.beside_loop import beside_loop
from graphflow.engine.cancellation import finish_despite_cancelling
from graphflow.engine.heartbeat import Heartbeat
from graphflow.store.contract import Store


@dataclass(slots=True)
class Session:
    """A store that is open, with the heartbeat of the leases that were taken through it."""

    store: Store
    heartbeat: Heartbeat
    #: What drains the runs that are driven in it, given the seconds that what runs gets to end.
    drains: set[Callable[[float], None]] = field(default_factory=set)
    #: Seconds that what runs gets to end; None while runs are started.
    draining: float | None = None

    def drain(self, grace_seconds: float) -> None:
        """Start nothing more in any run; each is given back when what runs in it has been committed."""
        self.draining = grace_seconds
        for drain in self.drains:
            drain(grace_seconds)


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

    def drain(self, grace_seconds: float) -> None:
        """Drain the sessions of the running loop and of others, from this thread."""
        for loop, shared in list(self._by_loop.items()):
            loop.call_soon_threadsafe(shared.session.drain, grace_seconds)

    def open(self) -> SessionUse:
        """The session, open; closed when its last user leaves. StoreError if the store cannot be reached."""
        return SessionUse(self)

    async def enter(self) -> Session:
        loop = asyncio.get_running_loop()
        shared = self._by_loop.get(loop)
        if shared is None:
            shared = self._by_loop[loop] = self._start()
        shared.users += 1
        try:
            await asyncio.shield(shared.opened)
        except BaseException:
            await self._leave(loop, shared)
            raise
        return shared.session

    async def leave(self) -> None:
        loop = asyncio.get_running_loop()
        await self._leave(loop, self._by_loop[loop])

    async def _leave(self, loop: asyncio.AbstractEventLoop, shared: _Shared) -> None:
        shared.users -= 1
        if not shared.users:
            self._by_loop.pop(loop, None)
            await finish_despite_cancelling(_close(shared))

    def _start(self) -> _Shared:
        store = self.make_store()
        return _Shared(Session(store, Heartbeat(store.renewer)), asyncio.ensure_future(store.open()))


@dataclass(frozen=True, slots=True)
class SessionUse:
    """One user of the running loop's session, for `async with`.

    Not written as a generator: those of a program that breaks off are all closed at once by its event loop, a generator
    that is used inside another one among them, which then cannot close it any more.
    """

    sessions: Sessions

    async def __aenter__(self) -> Session:
        return await self.sessions.enter()

    async def __aexit__(self, *_: object) -> None:
        await self.sessions.leave()


async def _close(shared: _Shared) -> None:
    shared.opened.cancel()
    # A connection that was being made is closed by whoever made it.
    await asyncio.wait([shared.opened])
    try:
        await beside_loop(shared.session.heartbeat.close)
    finally:
        await shared.session.store.aclose()
