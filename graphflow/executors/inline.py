"""Runs module bodies in this process: coroutines on the event loop, sync functions in threads."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from graphflow.executors.executor import A, Asker, Work
from graphflow.executors.threads import Threads
from graphflow.graph.functions import is_async

_stop_requested: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar(
    "graphflow_stop_requested"
)


def is_cancelled() -> bool:
    """Whether the module run that calls this is no longer wanted: its run was cancelled, or its time is up.

    For sync module bodies and sync functions of steps, which cannot be interrupted from outside: look at it between two
    pieces of work. False outside a module run. A coroutine is told by CancelledError; here it learns whether its task was.
    """
    asked = _stop_requested.get(None)
    if asked is not None:
        return asked()
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


def watch_for_stop(asked: Callable[[], bool]) -> None:
    """From here on, in this context, `is_cancelled` answers with `asked`."""
    _stop_requested.set(asked)


class InlineExecutor:
    """Open it as a context manager: its threads end with the block, without waiting for bodies that hang."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._threads = Threads(on_end)
        self._context = contextvars.copy_context()

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._threads.close()

    async def execute(
        self, function: Callable[..., Any], *args: Any, ended: Callable[[], None] | None = None
    ) -> Any:
        """The function's return value; what it raises is raised here."""
        if not is_async(function):
            return await self._threads.run(function, args, {}, ended)
        try:
            return await function(*args)
        finally:
            if ended is not None:
                ended()

    async def in_thread(
        self, function: Callable[..., Any], arguments: dict[str, Any], ended: Callable[[], None]
    ) -> Any:
        """The same for a function that is known to be sync."""
        return await self._threads.run(function, (), arguments, ended)

    def start(self, work: Work, asker: A, ended: Callable[[A, Any], None]) -> None:
        """Have work done in a thread, without a task that waits for it."""
        self._threads.start(self._do, (work, asker, ended), _tell)

    def _do(self, asked: _Asked) -> Any:
        work, asker, _ = asked
        return None if asker.is_unwanted() else self._context.copy().run(_watched, work, asker)


_Asked = tuple[Work, Asker, Callable[[Any, Any], None]]


def _watched(work: Work, asker: Asker) -> Any:
    watch_for_stop(asker.is_unwanted)
    return work.call(*work.arguments)


def _tell(asked: _Asked, result: Any) -> None:
    _, asker, ended = asked
    ended(asker, result)
