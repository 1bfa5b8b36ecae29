"""Runs module bodies in this process: coroutines on the event loop, sync functions in threads."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from graphflow.graph.functions import is_async

_stop_requested: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar(
    "graphflow_stop_requested"
)


def is_cancelled() -> bool:
    """Whether the module run that calls this is no longer wanted: its run was cancelled, or its time is up.

    For sync module bodies, which cannot be interrupted from outside: look at it between two pieces of work. False
    outside a module run.
    """
    asked = _stop_requested.get(None)
    return asked is not None and asked()


def watch_for_stop(asked: Callable[[], bool]) -> None:
    """From here on, in this context, `is_cancelled` answers with `asked`."""
    _stop_requested.set(asked)


class InlineExecutor:
    """Open it as a context manager: its threads end with the block, without waiting for bodies that hang."""

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def execute(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The function's return value; what it raises is raised here."""
        if is_async(function):
            return await function(*args, **kwargs)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._max_threads, thread_name_prefix="graphflow")
        context = contextvars.copy_context()
        call = self._pool.submit(context.run, _call, function, args, kwargs)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            if not call.done():
                self._leave_pool()
            raise

    def _leave_pool(self) -> None:
        """One of its threads goes on with a body that nobody waits for and must not take the place of another."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a coroutine may not be told as it is becomes a RuntimeError.

    A StopIteration cannot be set on a future, so the caller would wait for ever; a GeneratorExit, thrown into the
    coroutines that wait, would close them.
    """
    try:
        return function(*args, **kwargs)
    except (StopIteration, GeneratorExit) as error:
        raise RuntimeError(f"function raised {type(error).__name__}({error})") from error
