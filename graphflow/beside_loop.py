"""Has blocking work done in a thread of its own, so that the event loop goes on meanwhile.

Not `asyncio.to_thread`: a loop whose default executor was used ends by starting a thread, and from Python 3.12 on no
thread can be started while the interpreter waits for its last ones, so that a run which such a thread drives would come
to its end and then raise.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


async def beside_loop(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What the function returns or raises. In this thread if no other can be started.

    If this is cancelled the function goes on, and nobody learns what it comes to; the interpreter waits for it.
    """
    return await asyncio.get_running_loop().run_in_executor(_NewThread(), lambda: function(*args, **kwargs))


class _NewThread(Executor):
    """A thread for each call. Through the loop's `run_in_executor`, so that a loop whose clock is turned knows of it."""

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        called: Future[R] = Future()

        def call() -> None:
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                called.set_exception(error)
            else:
                called.set_result(result)

        called.set_running_or_notify_cancel()
        try:
            threading.Thread(target=call, name="graphflow-beside-loop").start()
        except RuntimeError:
            call()
        return called
