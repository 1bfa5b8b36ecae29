"""Two things that a cancellation must not cut short: what has to come to its end, and the driving of a run.

What has to come to its end, as giving back a lease or closing a store, does although who waits for it is cancelled. A
task that ignores its own cancellation gets some time, and is then torn down and left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds that what was cancelled gets to end when driving ends.
STOP_SECONDS = 5.0
#: Seconds that it gets while the run goes on; up to twice as many may pass.
GRACE_SECONDS = 1.0


async def finish_despite_cancelling(coroutine: Coroutine[Any, Any, T]) -> T:
    """What it returns or raises. A cancellation of the caller meanwhile is raised after it, not instead of it.

    `asyncio.shield` alone would return at once: what goes on behind it would meet a store that is closed.
    """
    task = asyncio.ensure_future(coroutine)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        raise cancellation from (None if task.cancelled() else task.exception())
    return task.result()


def tear_down(task: asyncio.Task[None]) -> None:
    """Make an end of a task that ignores its cancellation: the event loop could not be closed while it runs."""
    task.add_done_callback(_forget_error)
    coroutine = task.get_coro()
    assert coroutine is not None
    # A body that goes on even after this cannot be ended.
    with suppress(BaseException):
        coroutine.close()
    # What it waits for would wake it no more.
    task.cancel()


def _forget_error(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()
