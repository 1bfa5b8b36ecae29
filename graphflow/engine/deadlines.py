"""When is the time of an attempt up? One timer for all of them, since a map may have thousands under way.

Attempts of one timeout end their time in the order in which they started, so that of each timeout only the first has to
be looked at.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from itertools import takewhile
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphflow.engine.attempt import Attempt


class Deadlines:
    """The time that attempts have left. `overdue` is called, in `context`, with each whose time is up, and the seconds
    that it had left: none, or less where the loop was late."""

    def __init__(self, context: contextvars.Context, overdue: Callable[[Attempt, float], None]) -> None:
        self._context = context
        self._overdue = overdue
        self._loop = asyncio.get_running_loop()
        #: The time by which timers fire: no other clock can tell whether one has come.
        self._now = self._loop.time
        #: Timeout -> attempts with the end of their time, the first to end first.
        self._ends: dict[float, dict[Attempt, float]] = {}
        #: Attempts whose time went on after a wait, and so ends out of order.
        self._resumed: dict[Attempt, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: When the timer is due.
        self._next = 0.0

    def start(self, attempt: Attempt, seconds: float) -> None:
        """From now on it has so many seconds, the timeout of its module."""
        ends = self._ends.get(seconds)
        if ends is None:
            ends = self._ends[seconds] = {}
        ends[attempt] = end = self._now() + seconds
        # Others of this timeout end before it.
        if self._timer is None or (len(ends) == 1 and end < self._next):
            self._set_timer(end)

    def stop(self, attempt: Attempt, seconds: float) -> float | None:
        """Its time stands still, or it is over. What it had left of the `seconds`; None if it had no time running."""
        ends = self._ends.get(seconds)
        end = None if ends is None else ends.pop(attempt, None)
        if end is None and self._resumed:
            end = self._resumed.pop(attempt, None)
        return None if end is None else end - self._now()

    def resume(self, attempt: Attempt, seconds_left: float) -> None:
        """Its time goes on after a wait."""
        self._resumed[attempt] = end = self._now() + seconds_left
        if self._timer is None or end < self._next:
            self._set_timer(end)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self, end: float) -> None:
        self.close()
        self._next = end
        self._timer = self._loop.call_at(end, self._look, context=self._context)

    def _look(self) -> None:
        self._timer = None
        now = self._now()
        for attempt, end in self._take_ended(now):
            self._overdue(attempt, end - now)
        self._ends = {seconds: ends for seconds, ends in self._ends.items() if ends}
        if ends := [*self._resumed.values(), *(next(iter(ends.values())) for ends in self._ends.values())]:
            self._set_timer(min(ends))

    def _take_ended(self, now: float) -> list[tuple[Attempt, float]]:
        """Attempts whose time is up, with the end of their time: they have none any more."""
        found: list[tuple[Attempt, float]] = []
        for ends in self._ends.values():
            found += _take(ends, [*takewhile(lambda pair: pair[1] <= now, ends.items())])
        resumed = [pair for pair in self._resumed.items() if pair[1] <= now]
        return found + _take(self._resumed, sorted(resumed, key=itemgetter(1)))


def _take(ends: dict[Attempt, float], pairs: list[tuple[Attempt, float]]) -> list[tuple[Attempt, float]]:
    for attempt, _ in pairs:
        del ends[attempt]
    return pairs
