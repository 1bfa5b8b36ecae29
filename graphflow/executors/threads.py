"""Threads for sync bodies. They are daemons: a body that hangs keeps neither another from running nor the process alive.

They pull calls from one queue, and what has ended they report together: the event loop is woken by the first that has
ended since its last look, so that short calls do not cost it a wake-up each.

There is no limit here. Whoever calls holds a slot, so that there are never more threads than slots, but for those whose
body outlived its time.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")

#: Calls reported before the loop gets a turn.
BURST_CALLS = 64

_numbers = itertools.count(1)
#: A function, its argument, and who is told what it returned.
_Call = tuple[Callable[[Any], Any], Any, Callable[[Any, Any], None]]


class Threads:
    """Threads for the calls of the running event loop, started when none is idle. `close` ends those that are idle."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        #: Who is told of what, appended in the threads.
        self._ended: deque[tuple[Callable[[Any, Any], None], Any, Any]] = deque()
        #: The loop was asked to look at what has ended, and has not begun to.
        self._is_woken = False
        self._count = 0
        #: Calls that were put into the queue and not yet reported.
        self._unreported = 0

    async def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the function returns or raises, called in a thread with this context.

        If this is cancelled the function goes on, and nobody learns what it comes to.
        """
        ended: asyncio.Future[Any] = self._loop.create_future()
        call = partial(contextvars.copy_context().run, function, *args, **kwargs)
        self.start(_called, call, lambda _, result: _settle(ended, result))
        return await ended

    def start(self, function: Callable[[A], R], argument: A, ended: Callable[[A, R], None]) -> None:
        """Call `function(argument)` in a thread, and `ended(argument, result)` in the event loop when it has returned.

        The function sees to its context, and raises nothing.
        """
        self._unreported += 1
        self._calls.put((function, argument, ended))
        # A body that hangs is never taken for a thread that others may wait for.
        if self._unreported - len(self._ended) > self._count:
            self._add_thread()

    def close(self) -> None:
        for _ in range(self._count):
            self._calls.put(None)

    def _add_thread(self) -> None:
        name = f"graphflow-worker-{next(_numbers)}"
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError:
            if self._count == 0:
                raise
            logger.warning("no more than %s threads can be started; sync bodies wait for one", self._count)
            return
        self._count += 1

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, argument, ended = call
            self._ended.append((ended, argument, function(argument)))
            if not self._is_woken:
                self._is_woken = True
                with suppress(RuntimeError):  # The loop may be closed by now.
                    self._loop.call_soon_threadsafe(self._report, context=self._context)
            del call, function, argument, ended  # They would keep the last body's arguments and result alive.

    def _report(self) -> None:
        # Before the look: what ends from here on asks for another.
        self._is_woken = False
        try:
            for _ in range(min(BURST_CALLS, len(self._ended))):
                ended, argument, result = self._ended.popleft()
                self._unreported -= 1
                ended(argument, result)
        finally:
            if self._ended:
                self._is_woken = True
                self._loop.call_soon(self._report, context=self._context)


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


def _called(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except BaseException as error:
        return _Raised(error)


def _settle(ended: asyncio.Future[Any], result: Any) -> None:
    if ended.done():
        return
    if isinstance(result, _Raised):
        ended.set_exception(_throwable(result.error))
    else:
        ended.set_result(result)


def _throwable(error: BaseException) -> BaseException:
    """What a coroutine may not be told as it is, as a RuntimeError.

    A StopIteration cannot be set on a future, so the caller would wait for ever; a GeneratorExit, thrown into the
    coroutines that wait, would close them.
    """
    if not isinstance(error, StopIteration | GeneratorExit):
        return error
    replaced = RuntimeError(f"function raised {type(error).__name__}({error})")
    replaced.__cause__ = error
    return replaced
