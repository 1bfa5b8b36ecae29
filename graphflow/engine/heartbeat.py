"""Keeps the leases of this process alive from a thread of its own, so that a blocked event loop does not lose a run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from graphflow.clock import alarm, monotonic
from graphflow.errors import StoreError
from graphflow.settings import DEFAULT_BLOCKED_SECONDS
from graphflow.store.contract import Lease, Renewer

logger = logging.getLogger(__name__)

#: A lease is renewed this many times before it would end.
RENEWALS_PER_LEASE = 3
#: Seconds without a tick of the event loop after which a warning says what holds it up, at the next renewal.
HELD_UP_SECONDS = 1.0


@dataclass(slots=True)
class _Beat:
    lease: Lease
    due: float
    lost: Callable[[], None]
    inbox: Callable[[int], None]
    call_in_loop: Callable[[Callable[[], None]], None]
    at_work: Callable[[], str]
    #: When the loop that drives the run last ran something.
    ticked: float
    #: When it was last asked to.
    asked: float = 0.0
    is_held_up: bool = False
    is_stalled: bool = False

    def tick(self) -> None:
        self.ticked = monotonic()


class Heartbeat:
    """Renews every lease that it is given until that lease is dropped. The thread starts with the first lease.

    `lost` and `inbox` are called from the thread: `lost` once when the lease is somebody else's, `inbox` with the
    number of requests that wait for the run. A lease is not renewed while the loop that drives its run, reached through
    `call_in_loop`, has not run anything for `stall_seconds`: another process had better go on with that run. What holds
    the loop up, as `at_work` describes it, is logged long before.
    """

    def __init__(
        self, renewer: Callable[[], Renewer], *, stall_seconds: float = DEFAULT_BLOCKED_SECONDS
    ) -> None:
        self._open_renewer = renewer
        self._stall_seconds = stall_seconds
        self._beats: dict[str, _Beat] = {}
        self._lock = threading.Lock()
        self._renewer: Renewer | None = None
        self._alarm = alarm(self._renew_due, "graphflow-heartbeat")

    def keep(
        self,
        lease: Lease,
        *,
        lost: Callable[[], None],
        inbox: Callable[[int], None],
        call_in_loop: Callable[[Callable[[], None]], None],
        at_work: Callable[[], str] = lambda: "something",
    ) -> None:
        now = monotonic()
        due = now + lease.seconds / RENEWALS_PER_LEASE
        with self._lock:
            self._beats[lease.token] = _Beat(lease, due, lost, inbox, call_in_loop, at_work, now)
        self._alarm.wake()

    def drop(self, lease: Lease) -> None:
        with self._lock:
            self._beats.pop(lease.token, None)

    def close(self) -> None:
        """Renew nothing more; the thread is gone when this returns."""
        self._alarm.close()
        if self._renewer is not None:
            self._renewer.close()

    def _renew_due(self) -> float | None:
        """Renew one lease, if one is due; the seconds until the next is, None if there is none."""
        if self._renewer is None:
            self._renewer = self._open_renewer()
        beat = self._next()
        if beat is not None and beat.due <= monotonic():
            self._renew(self._renewer, beat)
            beat = self._next()
        return None if beat is None else max(0.0, beat.due - monotonic())

    def _next(self) -> _Beat | None:
        with self._lock:
            return min(self._beats.values(), key=lambda each: each.due, default=None)

    def _renew(self, renewer: Renewer, beat: _Beat) -> None:
        beat.due = monotonic() + beat.lease.seconds / RENEWALS_PER_LEASE
        if self._loop_stalls(beat):
            return
        try:
            waiting = renewer.renew(beat.lease)
        except StoreError as error:
            logger.warning("run %s: lease not renewed, trying again: %s", beat.lease.run_id, error)
            beat.due = monotonic() + min(0.2, beat.lease.seconds / 10)
            return
        with self._lock:
            known = self._beats.get(beat.lease.token) is beat
            if waiting is None:
                self._beats.pop(beat.lease.token, None)
        if known and waiting is None:
            beat.lost()
        elif known and waiting:
            beat.inbox(waiting)

    def _loop_stalls(self, beat: _Beat) -> bool:
        _look_for_hold_up(beat)
        silent = monotonic() - beat.ticked
        stalls = silent > self._stall_seconds
        if stalls and not beat.is_stalled:
            logger.error(
                "run %s: the event loop has been blocked for %.0f s, so the lease is not renewed until it runs again; "
                "move blocking code into a sync function, which runs in a thread",
                beat.lease.run_id,
                silent,
            )
        beat.is_stalled = stalls
        if beat.ticked >= beat.asked:
            beat.asked = monotonic()
            beat.call_in_loop(beat.tick)
        return stalls


def _look_for_hold_up(beat: _Beat) -> None:
    held_up = monotonic() - beat.asked if beat.ticked < beat.asked else 0.0
    if held_up > HELD_UP_SECONDS and not beat.is_held_up:
        logger.warning(
            "run %s: %s has held up the event loop for %.1f s, and with it everything else that runs there; "
            "use async libraries, or a sync function, which runs in a thread",
            beat.lease.run_id,
            beat.at_work(),
            held_up,
        )
    beat.is_held_up = held_up > HELD_UP_SECONDS
