"""What must be brought to its end although who waits for it is cancelled: a lease given back, a store closed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def brought_to_its_end(coroutine: Coroutine[Any, Any, T]) -> T:
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
