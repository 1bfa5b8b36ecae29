"""What do Ctrl-C and SIGTERM do to a command? The first stops what it does, the second ends the process at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

from graphflow.cli.exits import Interrupted
from graphflow.errors import RunInterrupted
from graphflow.interruptions import NUMBERS, Handlers

T = TypeVar("T")


class Interruptions:
    """As long as the block lasts, the first signal stops what `run` runs, or is raised where nothing runs.

    After a first signal the handlers stay, so that the second also ends a process that waits for a thread which does not
    end.
    """

    def __init__(self, last_words: str = "") -> None:
        self._handlers = Handlers(self._receive, last_words)
        self._drain: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Interruptions:
        self._handlers.set(NUMBERS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._handlers.received:
            self._handlers.put_back()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """`asyncio.run`; raises `Interrupted` if a signal stopped it. What ends in spite of a signal has its result."""
        try:
            return asyncio.run(self._watched(coroutine))
        except (asyncio.CancelledError, RunInterrupted):
            if not self._handlers.received:
                raise
            raise Interrupted(self._handlers.received) from None

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

    def _receive(self, number: int) -> None:
        if self._loop is None or self._task is None:
            raise Interrupted(number)
        # In the loop, so that it comes between two steps of what runs: a call that is to be drained has begun by then.
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._drain is not None:
            self._drain()
        elif self._task is not None:
            self._task.cancel()
