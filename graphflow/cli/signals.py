"""What do Ctrl-C and SIGTERM do to a command that runs? They cancel it; a second one ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The command was asked to stop, and did. `exit_code` is what shells expect of that."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class Interruptions:
    """As long as the block lasts, the first signal cancels what `run` runs, or is raised where nothing runs.

    Handlers of Python, not of the loop: they also reach a process whose loop is blocked. After a first signal they
    stay, so that the second also ends a process that waits for a thread which does not end.
    """

    def __init__(self) -> None:
        self.received = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruptions:
        self._before = {number: signal.signal(number, self._receive) for number in _NUMBERS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.received:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """`asyncio.run`; raises `Interrupted` if a signal cancelled it."""
        try:
            return asyncio.run(self._watched(coroutine))
        except asyncio.CancelledError:
            if not self.received:
                raise
            raise Interrupted(self.received) from None

    async def _watched(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            return await coroutine
        finally:
            self._loop = self._task = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = number
        if self._loop is None or self._task is None:
            raise Interrupted(number)
        self._loop.call_soon_threadsafe(self._task.cancel)
