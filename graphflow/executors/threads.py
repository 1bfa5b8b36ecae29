"""Threads for sync bodies. They are daemons: a body that hangs keeps neither another from running nor the process alive.

There is no limit here. Whoever calls holds a slot, so that there are never more threads than slots, but for those whose
body outlived its time.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

_numbers = itertools.count(1)


class Threads:
    """Threads for the calls of one event loop, started when none is idle. `close` ends those that are idle."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = 0
        self._idle = 0

    async def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the function returns or raises, called in a thread with this context.

        If this is cancelled the function goes on, and nobody learns what it comes to.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def call() -> None:
            result, error = None, None
            try:
                result = context.run(function, *args, **kwargs)
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # The loop may be closed by now.
                loop.call_soon_threadsafe(self._end, ended, result, error)

        if self._idle:
            self._idle -= 1
        else:
            self._start()
        self._calls.put(call)
        return await ended

    def close(self) -> None:
        for _ in range(self._count):
            self._calls.put(None)

    def _start(self) -> None:
        self._count += 1
        name = f"graphflow-worker-{next(_numbers)}"
        threading.Thread(target=_work, args=(self._calls,), name=name, daemon=True).start()

    def _end(self, ended: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._idle += 1
        if ended.done():
            return
        if error is None:
            ended.set_result(result)
        else:
            ended.set_exception(_throwable(error))


def _work(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # It would keep the last body's arguments and result alive.


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
