"""A crash inside this process: driving breaks off at a failpoint, and nothing that comes after it has any effect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graphflow import failpoints
from graphflow.errors import PlaceNotPassed

_deaths = 0


class ProcessDied(BaseException):
    """This process is taken for dead. No Exception: nobody who handles failures is to take it for one."""


@contextmanager
def crash_at(place: str, turn: int = 1) -> Iterator[None]:
    """Where the failpoint `place` is passed for the `turn`-th time, break off as if the process had died there.

    Every run that this process drives breaks off; nothing more is committed, remembered or given back until the end of
    the block, which swallows the ProcessDied that comes out of `run_task`. After it the runs can be resumed: at once in
    a `MemoryStore`, which knows that their driver is dead; in Redis when their leases have ended, since the process that
    holds them lives. docs/guide.md has the places.

    PlaceNotPassed if the block ends without having come by; ValueError if `turn` is not at least 1.
    """
    if turn < 1:
        raise ValueError(f"crash_at({place!r}, turn={turn}): turns count from 1")
    watch = _Watch(place, turn)
    try:
        with failpoints.watched(watch.passed):
            yield
    except BaseException as error:
        if not _is_death(error):
            raise
    finally:
        watch.close()
    if not watch.is_dead:
        raise PlaceNotPassed(place, turn, watch.names)


def deaths() -> int:
    """How often this process has been taken for dead."""
    return _deaths


class _Watch:
    """Counts the passes, and lets nobody pass anywhere after the crash."""

    def __init__(self, place: str, turn: int) -> None:
        self.is_dead = False
        self.names: list[str] = []
        self._place = place
        self._left = turn
        self._loops: list[tuple[asyncio.AbstractEventLoop, Any]] = []

    def passed(self, name: str) -> None:
        global _deaths
        if not self.is_dead:
            if name not in self.names:
                self.names.append(name)
            self._left -= name == self._place
            if self._left:
                return
            self.is_dead = True
            _deaths += 1
            failpoints.crash(ProcessDied(self._place))
        self._raise()

    def _raise(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # A thread of the engine: it ends, without a word.
            raise SystemExit from ProcessDied(self._place)
        task = asyncio.current_task(loop)
        if task is not None:
            task.add_done_callback(_look_at)
        elif all(known is not loop for known, _ in self._loops):
            self._loops.append((loop, loop.get_exception_handler()))
            loop.set_exception_handler(self._report)
        raise ProcessDied(self._place)

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Of what a loop has to report, leave out that callbacks have met their death."""
        if isinstance(context.get("exception"), ProcessDied):
            return
        before = next(handler for known, handler in self._loops if known is loop)
        if before is None:
            loop.default_exception_handler(context)
        else:
            before(loop, context)

    def close(self) -> None:
        for loop, handler in self._loops:
            loop.set_exception_handler(handler)


def _look_at(task: asyncio.Task[Any]) -> None:
    """Whoever dies with the process need not be asked what became of it."""
    if not task.cancelled():
        task.exception()


def _is_death(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(ProcessDied)[1] is None
    return isinstance(error, ProcessDied)
