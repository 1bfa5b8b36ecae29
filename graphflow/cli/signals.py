"""What do Ctrl-C and SIGTERM do to a command? The first stops what it does, the second ends the process at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

from graphflow.cli.exits import Interrupted
from graphflow.errors import RunInterrupted

T = TypeVar("T")

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interruptions:
    """As long as the block lasts, the first signal stops what `run` runs, or is raised where nothing runs.

    Handlers of Python, not of the loop: they also reach a process whose loop is blocked. After a first signal they
    stay, so that the second also ends a process that waits for a thread which does not end; `last_words` is what it
    says then, on stderr.
    """

    def __init__(self, last_words: str = "") -> None:
        self.received = 0
        self._last_words = last_words
        self._drain: Callable[[], None] | None = None
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
        """`asyncio.run`; raises `Interrupted` if a signal stopped it. What ends in spite of a signal has its result."""
        try:
            return asyncio.run(self._watched(coroutine))
        except (asyncio.CancelledError, RunInterrupted):
            if not self.received:
                raise
            raise Interrupted(self.received) from None

    @contextlib.contextmanager
    def draining(self, drain: Callable[[], None]) -> Iterator[None]:
        """As long as the block lasts, a signal calls `drain` in the loop instead of cancelling what runs."""
        self._drain = drain
        try:
            yield
        finally:
            self._drain = None

    async def _watched(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            return await coroutine
        finally:
            self._loop = self._task = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if self._last_words:
                os.write(2, f"{self._last_words}\n".encode())
            os._exit(128 + number)
        self.received = number
        if self._loop is None or self._task is None:
            raise Interrupted(number)
        # In the loop, so that it comes between two steps of what runs: a call that is to be drained has begun by then.
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._drain is not None:
            self._drain()
        elif self._task is not None:
            self._task.cancel()
