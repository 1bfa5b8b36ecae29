"""Attempts that the run has gone on without while something of them is still at work: a thread that nothing interrupts, a
coroutine that ignores its cancellation.

Their slots are free, and nobody waits for what they come to. Only in the max_concurrency of its node each keeps its place,
until it has ended or for a while.
"""

from __future__ import annotations

import asyncio
import logging

from graphflow.engine.attempt import Attempt
from graphflow.engine.drive import Drive

logger = logging.getLogger(__name__)

#: Seconds that a place is kept if the timeout is shorter.
LEAST_KEPT_SECONDS = 10.0


class LeftBehind:
    """Those of one run whose places count. Another turn of the run is asked for when one of them is free."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        #: By the numbers of their nodes, each with the timer that takes its place away.
        self._kept: dict[int, dict[Attempt, asyncio.TimerHandle]] = {}
        self._is_closed = False

    def count(self, index: int) -> int:
        """How many attempts of the node keep a place."""
        return len(self._kept[index]) if index in self._kept else 0

    @property
    def nodes(self) -> list[int]:
        """The numbers of the nodes of which there are some."""
        return [*self._kept]

    def add(self, attempt: Attempt) -> None:
        """The attempt is over, and something of it is at work."""
        # Of a map the items are limited, not the reading of its source.
        if self._is_closed or attempt.node.config.max_concurrency is None or attempt.reads_source:
            return
        seconds = max(attempt.timeout, LEAST_KEPT_SECONDS)
        loop, context = self._drive.loop, self._drive.context
        timer = loop.call_later(seconds, self._give_up, attempt, seconds, context=context)
        self._kept.setdefault(attempt.node.index, {})[attempt] = timer
        attempt.on_end_of_work = self._remove

    def close(self) -> None:
        """The run ends, and waits for none of them."""
        self._is_closed = True
        for kept in self._kept.values():
            for timer in kept.values():
                timer.cancel()
        self._kept.clear()

    def _remove(self, attempt: Attempt) -> None:
        kept = self._kept.get(attempt.node.index, {})
        if (timer := kept.pop(attempt, None)) is None:
            return
        timer.cancel()
        if not kept:
            del self._kept[attempt.node.index]
        self._drive.wake()

    def _give_up(self, attempt: Attempt, seconds: float) -> None:
        logger.warning(
            "run %s: %s is still at work %g s after it was left behind, and is not waited for any longer: two of its node "
            "may now run at once, beyond max_concurrency=%s; let its body end when graphflow.is_cancelled() says so, or a "
            "coroutine let CancelledError pass",
            self._drive.run.id,
            attempt.description,
            seconds,
            attempt.node.config.max_concurrency,
        )
        self._remove(attempt)
