"""What time is it, and who calls when it has come? Asked here by everybody but event loops, whose timers have a clock of
their own, so that a test can turn all of it (see `testing/clock.py`).

Who waits in an event loop asks that one, `loop.time()`; whose lease ends in a while, `monotonic`; who waits for another process
or a thread, `outside`. `now` is for what is stored, and for how long ago that was: it may stand still, or jump.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

#: What an alarm calls; it returns the seconds until it wants to be called again, None for never by itself.
Action = Callable[[], float | None]


class Alarm(Protocol):
    """Calls an action again and again, each time as many seconds later as the action said."""

    def wake(self) -> None:
        """Call it now. May be called from any thread."""

    def close(self) -> None:
        """Call it no more; a call under way is over when this returns."""


class Source(Protocol):
    """Where the time comes from."""

    def time_ns(self) -> int:
        """Nanoseconds since 1970."""

    def monotonic(self) -> float:
        """Seconds, never set back."""

    def thread_time(self) -> float:
        """Seconds that this thread has had of the processor."""

    def alarm(self, action: Action, name: str) -> Alarm:
        """One that is silent until it is woken. It must be closed."""


class ThreadAlarm:
    """Calls from a thread of its own, called `name`, that starts with the first call."""

    def __init__(self, action: Action, name: str) -> None:
        self._action = action
        self._name = name
        self._changed = threading.Condition()
        self._is_woken = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        with self._changed:
            self._is_woken = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        seconds: float | None = 0.0
        while self._wait(seconds):
            seconds = self._action()

    def _wait(self, seconds: float | None) -> bool:
        """False if it was closed meanwhile."""
        with self._changed:
            if not self._is_woken and not self._is_closed:
                self._changed.wait(seconds)
            self._is_woken = False
            return not self._is_closed


def outside() -> float:
    """Seconds, never set back, whatever a test does to the time: for who waits for another process or a thread.

    Not `time.monotonic`, which libraries that freeze the time replace.
    """
    return time.clock_gettime(time.CLOCK_MONOTONIC)


class _Real:
    time_ns = staticmethod(time.time_ns)
    # A lease ends by Redis' clock, which nobody freezes.
    monotonic = staticmethod(outside)
    thread_time = staticmethod(time.thread_time)
    alarm = staticmethod(ThreadAlarm)


_REAL: Source = _Real()
_source: Source = _REAL


def now() -> float:
    """Milliseconds since 1970, to the microsecond."""
    return _source.time_ns() // 1000 / 1000


def monotonic() -> float:
    """Seconds, never set back."""
    return _source.monotonic()


def thread_time() -> float:
    """Seconds that this thread has had of the processor."""
    return _source.thread_time()


def alarm(action: Action, name: str) -> Alarm:
    """One that is silent until it is woken, and has to be closed."""
    return _source.alarm(action, name)


@contextmanager
def taken_from(source: Source) -> Iterator[None]:
    """As long as the block lasts, this process has its time from there. RuntimeError if it has it from elsewhere."""
    global _source
    if _source is not _REAL:
        raise RuntimeError("another clock is being turned in this process; run one after the other")
    _source = source
    try:
        yield
    finally:
        _source = _REAL
