"""What if a run stands still, and nothing says why? After a while its driving is broken off, so that it can be resumed.

While a run is driven something is in flight, or a timer is set, or there is a reason to wait: a signal, a message, room
in the store. That this holds after every turn is for the engine to see to; here it is doubted. The look comes by the
clock, so that it does not depend on anybody who forgot to look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from graphflow.engine.drive import Drive

#: Looks in the seconds for which a run may stand still.
LOOKS = 4


class Watchdog:
    """Looks after one run while it is driven; `on_stall` is called once. `stands_still` says whether nothing goes on."""

    def __init__(
        self, drive: Drive, seconds: float, *, stands_still: Callable[[], bool], on_stall: Callable[[], None]
    ) -> None:
        self._drive = drive
        self._seconds = seconds
        self._stands_still = stands_still
        self._on_stall = on_stall
        #: The turns, and the time, when it was first seen to stand still; None while it goes on.
        self._seen: tuple[int, float] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = self._drive.loop.call_later(
            self._seconds / LOOKS, self._look, context=self._drive.context
        )

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        turns, time = self._drive.turns, self._drive.loop.time()
        if not self._stands_still():
            self._seen = None
        elif self._seen is None or self._seen[0] != turns:
            self._seen = turns, time
        elif time - self._seen[1] >= self._seconds:
            self._on_stall()
            return
        self.start()
