"""How does code that blocks get what a coroutine comes to? In an event loop and a thread of its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

R = TypeVar("R")


def is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def in_own_loop(
    begin: Callable[[], Coroutine[Any, Any, R]], waits_on: Callable[[], bool] = lambda: False
) -> R:
    """What the coroutine returns or raises, with this context. A loop that runs here is held up meanwhile.

    What a signal handler raises, as Python's does for Ctrl-C, is raised at once, and the coroutine is cancelled, also if it
    has not begun; if `waits_on` says so, it is raised when the coroutine has come to its end.
    """
    call = _Call(begin)
    call.start()
    interruption: BaseException | None = None
    while not call.has_ended.is_set():
        # Not `join`: a thread whose join is interrupted counts as ended on Python 3.11 and 3.12.
        try:
            call.has_ended.wait()
        except BaseException as error:
            interruption = error
            if not waits_on():
                call.give_up()
                break
    if interruption is not None:
        raise interruption
    return call.result()


class _Call(Generic[R]):
    """A coroutine in another thread."""

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, R]]) -> None:
        self.has_ended = threading.Event()
        self._begin = begin
        self._outcome: list[R] = []
        self._errors: list[BaseException] = []
        self._is_given_up = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=[self._run], name="graphflow-sync"
        )

    def start(self) -> None:
        self._thread.start()

    def result(self) -> R:
        self._thread.join()
        if self._errors:
            raise self._errors[0]
        return self._outcome[0]

    def give_up(self) -> None:
        self._is_given_up = True
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # The loop may be closed by now.
                self._loop.call_soon_threadsafe(self._task.cancel)

    def _run(self) -> None:
        try:
            self._outcome.append(asyncio.run(self._main()))
        except BaseException as error:
            self._errors.append(error)
        finally:
            self.has_ended.set()

    async def _main(self) -> R:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        # Asked after they are known to who gives up, so that one of both sees the other.
        if self._is_given_up:
            raise asyncio.CancelledError
        return await self._begin()
