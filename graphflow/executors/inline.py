"""Runs module bodies in this process: coroutines on the event loop, sync functions in threads."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, TypeVar

from graphflow.executors.threads import Threads
from graphflow.graph.functions import is_async

A = TypeVar("A")
R = TypeVar("R")

_stop_requested: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar(
    "graphflow_stop_requested"
)


def is_cancelled() -> bool:
    """Whether the module run that calls this is no longer wanted: its run was cancelled, or its time is up.

    For sync module bodies, which cannot be interrupted from outside: look at it between two pieces of work. False
    outside a module run. A coroutine is told by CancelledError; here it learns whether its task was.
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

    def __init__(self) -> None:
        self._threads = Threads()

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._threads.close()

    async def execute(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The function's return value; what it raises is raised here."""
        if is_async(function):
            return await function(*args, **kwargs)
        return await self._threads.run(function, args, kwargs)

    async def in_thread(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """The same for a function that is known to be sync."""
        return await self._threads.run(function, (), arguments)

    def start(self, function: Callable[[A], R], argument: A, ended: Callable[[A, R], None]) -> None:
        """Call `function(argument)` in a thread without a task that waits for it: `ended(argument, result)` is called
        in the event loop. The function sees to its context, and raises nothing."""
        self._threads.start(function, argument, ended)
