"""What is to happen later in the driving of one run, and not at all if that has ended by then."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable


class Timers:
    """Calls of the running event loop, made in `context`."""

    def __init__(self, context: contextvars.Context) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._handles: dict[int, asyncio.TimerHandle] = {}
        self._last = 0

    def after(self, seconds: float, action: Callable[..., None], *arguments: object) -> int:
        """Call `action` in so many seconds. Returns the timer's number."""
        number = self._last = self._last + 1

        def fire() -> None:
            del self._handles[number]
            action(*arguments)

        self._handles[number] = self._loop.call_later(max(0.0, seconds), fire, context=self._context)
        return number

    def cancel(self, number: int) -> None:
        handle = self._handles.pop(number, None)
        if handle is not None:
            handle.cancel()

    def close(self) -> None:
        for handle in self._handles.values():
            handle.cancel()

    @property
    def next_at(self) -> float | None:
        """When the next of them is due, by the loop's time; None if there is none."""
        return min((handle.when() for handle in self._handles.values()), default=None)

    def __len__(self) -> int:
        return len(self._handles)

    def __contains__(self, number: object) -> bool:
        return number in self._handles
