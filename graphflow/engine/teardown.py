"""What becomes of a task that ignores its cancellation? It gets some time, and is then torn down and left behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress

#: Seconds that what was cancelled gets to end when driving ends.
STOP_SECONDS = 5.0
#: Seconds that it gets while the run goes on; up to twice as many may pass.
GRACE_SECONDS = 1.0


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
