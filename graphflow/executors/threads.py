"""Threads for sync bodies. They are daemons: a body that hangs keeps neither another from running nor the process alive.

They pull calls from one queue, so that few threads do many short calls; a call that has waited for a moment gets a
thread of its own. What has ended they report together: the event loop is woken by the first call that has ended since
its last look.

There is no limit here. Whoever calls holds a slot, so that there are never more threads than slots, but for those whose
body outlived its time; whoever called is told when it has ended all the same.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")

#: Seconds that a call waits for a thread that is there before another one is started for it; twice as many may pass.
PATIENCE_SECONDS = 0.001
#: Seconds until the next try when the system lets no more threads be started.
RETRY_SECONDS = 1.0
#: Threads started, and calls reported, before the loop gets a turn.
BURST_THREADS = 32
BURST_CALLS = 64

_numbers = itertools.count(1)
_all: weakref.WeakSet[Threads] = weakref.WeakSet()


def at_work(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a thread does something of which this event loop is still to be told."""
    return any(threads.is_at_work(loop) for threads in _all)


class Threads:
    """Threads for the calls of the running event loop. `close` ends them, but for those whose body has not.

    `on_no_thread` is called when there is none, and none can be started any more because the interpreter is about to end.
    """

    def __init__(self, on_no_thread: Callable[[], None]) -> None:
        self._on_no_thread = on_no_thread
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        #: A function, its argument, and who is told what it returned.
        self._calls: SimpleQueue[tuple[Callable[[Any], Any], Any, Callable[[Any, Any], None]] | None]
        self._calls = SimpleQueue()
        #: Who is told of what, appended in the threads.
        self._ended: deque[tuple[Callable[[Any, Any], None], Any, Any]] = deque()
        #: The loop was asked to look at what has ended, and has not begun to.
        self._is_woken = False
        self._threads = 0
        #: Calls put into the queue since the beginning, and how many of these the next look expects to have begun.
        self._put = 0
        self._expected = 0
        #: Calls of which somebody was told what they came to.
        self._told = 0
        self._next_look: asyncio.TimerHandle | None = None
        _all.add(self)

    async def run(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        ended: Callable[[], None] | None = None,
    ) -> Any:
        """What the function returns or raises, called in a thread with this context.

        If this is cancelled the function goes on, and nobody learns what it comes to; `ended` is called in the event loop
        when it has come to its end, however that is.
        """
        settled = self._loop.create_future()
        call = _Awaited(function, args, kwargs, contextvars.copy_context(), settled, ended)
        self.start(_Awaited.made, call, _Awaited.settle)
        return await settled

    def start(self, function: Callable[[A], R], argument: A, ended: Callable[[A, R], None]) -> None:
        """Call `function(argument)` in a thread, and `ended(argument, result)` in the event loop when it has returned.

        The function sees to its context, and raises nothing.
        """
        self._put += 1
        self._calls.put((function, argument, ended))
        if self._next_look is None:
            self._look_after(PATIENCE_SECONDS if self._threads else 0)

    def is_at_work(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether calls of this event loop are under way."""
        return self._loop is loop and self._put > self._told

    def close(self) -> None:
        _all.discard(self)
        if self._next_look is not None:
            self._next_look.cancel()
        for _ in range(self._threads):
            self._calls.put(None)

    # Threads come

    def _look_after(self, seconds: float) -> None:
        self._expected = self._put
        self._next_look = self._loop.call_later(seconds, self._look, context=self._context)

    def _look(self) -> None:
        """Start a thread for each call that has not begun since the last look: those that are there do not end."""
        self._next_look = None
        waiting = self._calls.qsize()
        late = self._expected - (self._put - waiting)
        patience = PATIENCE_SECONDS
        try:
            for _ in range(min(late, BURST_THREADS)):
                self._add_thread()
        except RuntimeError:
            if not self._threads and _interpreter_ends():
                self._on_no_thread()
                return
            logger.warning("no more than %s threads can be started; sync bodies wait for one", self._threads)
            patience = RETRY_SECONDS
        if waiting:
            self._look_after(patience)

    def _add_thread(self) -> None:
        name = f"graphflow-worker-{next(_numbers)}"
        threading.Thread(target=self._work, name=name, daemon=True).start()
        self._threads += 1

    # Calls end

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
            count = min(BURST_CALLS, len(self._ended))
            self._told += count
            for _ in range(count):
                ended, argument, result = self._ended.popleft()
                ended(argument, result)
        finally:
            if self._ended:
                self._is_woken = True
                self._loop.call_soon(self._report, context=self._context)


def _interpreter_ends() -> bool:
    """It waits for its last threads. Python 3.12 starts no more of them then."""
    return not threading.main_thread().is_alive()


@dataclass(slots=True)
class _Awaited:
    """A call that a coroutine waits for."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: contextvars.Context
    settled: asyncio.Future[Any]
    ended: Callable[[], None] | None

    def made(self) -> tuple[Any, BaseException | None]:
        """Its result and what it raised. In a thread."""
        if self.settled.done():
            # It was given up before a thread had time for it.
            return None, None
        try:
            return self.context.run(self.function, *self.args, **self.kwargs), None
        except BaseException as error:
            return None, error

    def settle(self, outcome: tuple[Any, BaseException | None]) -> None:
        if self.ended is not None:
            self.ended()
        if self.settled.done():
            return
        result, error = outcome
        if error is None:
            self.settled.set_result(result)
        else:
            self.settled.set_exception(_throwable(error))


def _throwable(error: BaseException) -> BaseException:
    """What a coroutine may not be told as it is, as a RuntimeError.

    A StopIteration cannot be set on a future, so the caller would wait for ever; a GeneratorExit, thrown into the
    coroutines that wait, would close them.
    """
    return told_by(error) if isinstance(error, StopIteration | GeneratorExit) else error


def told_by(error: BaseException) -> RuntimeError:
    """An error that may be raised anywhere, in the place of one that may not."""
    replaced = RuntimeError(f"function raised {type(error).__name__}({error})")
    replaced.__cause__ = error
    return replaced
