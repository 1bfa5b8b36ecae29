"""Which steps of a module run are under way? Called, or on their way to the store: what is paid for is not thrown away.

A step that waits for a signal itself is none of these: it ends as its module run does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class _Call:
    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task = asyncio.current_task()


#: The steps in whose functions this is.
_around: ContextVar[tuple[_Call, ...]] = ContextVar("graphflow_steps_around", default=())


class Calls:
    """Those of one module run."""

    __slots__ = ("_changed", "_open")

    def __init__(self) -> None:
        self._open: set[_Call] = set()
        self._changed = asyncio.Event()

    @property
    def are_under_way(self) -> bool:
        return bool(self._open)

    @contextmanager
    def one(self) -> Iterator[None]:
        """A step, from its call until it is stored, has failed or is cut off."""
        call, around = _Call(), _around.get()
        self._open.add(call)
        _around.set((*around, call))
        try:
            yield
        finally:
            _around.set(around)
            self._close(call)

    async def over(self) -> None:
        """Until none is under way but those around the caller."""
        for call in _around.get():
            self._close(call)
        while self._open:
            self._changed.clear()
            await self._changed.wait()

    def cut_off(self) -> None:
        """Cancel the tasks that a body has left behind with them."""
        for call in self._open:
            if call.task is not None and call.task is not asyncio.current_task():
                call.task.cancel()

    def _close(self, call: _Call) -> None:
        self._open.discard(call)
        self._changed.set()
