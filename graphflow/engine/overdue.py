"""Brings about what has a stored time while the run is driven: ends the patience of those who wait for a signal with a
timeout, and state keys that were set with a ttl."""

from __future__ import annotations

from graphflow.clock import now
from graphflow.engine.drive import Drive
from graphflow.inputs import KeyDue, SignalOverdue
from graphflow.run import Place, Wait
from graphflow.transition import Transition


class Patience:
    """The timeouts of one run's waits for signals."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._timers: dict[Place, int] = {}

    def enter(self) -> None:
        """Of the waits of a run that was just loaded."""
        for place, wait in self._drive.run.waits.items():
            self._begin(place, wait)

    def react(self, transition: Transition) -> None:
        for place, wait in transition.waits.items():
            self._drive.timers.cancel(self._timers.pop(place, 0))
            if wait is not None:
                self._begin(place, wait)

    def _begin(self, place: Place, wait: Wait) -> None:
        if not wait.deadline:
            return
        seconds = (wait.deadline - now()) / 1000
        if seconds <= 0:
            # Not by a timer: a run that is suspended is not driven until that is due.
            self._drive.arrive(SignalOverdue(place, wait.field))
        else:
            overdue = SignalOverdue(place, wait.field)
            self._timers[place] = self._drive.timers.after(seconds, self._drive.arrive, overdue)


class Expiry:
    """The ends of one run's state keys. Its length counts the timers: nothing starts by them.

    The end of a key is stored with the commit that sets it, and mirrored in `Run.expiring`. When it has come a `KeyDue` arrives,
    whose fold deletes the key and its end and tells of it, in one commit. So the failure at each point: before that commit the
    key is there, with its end, and whoever drives the run next deletes it first of all; after it there is neither. A key that
    was set anew meanwhile has another end, and the `KeyDue` is late. A run that is not driven, or is over, deletes nothing.
    """

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._timers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._timers)

    def overdue(self) -> list[KeyDue]:
        """Of the keys of a run that was just loaded, those whose end came while nobody drove it; to be folded before
        anything that may read state."""
        moment = now()
        ends = sorted((end, key) for key, end in self._drive.run.expiring.items() if end <= moment)
        return [KeyDue(key, end) for end, key in ends]

    def enter(self) -> None:
        """Of the other keys of that run."""
        for key, end in self._drive.run.expiring.items():
            self._begin(key, end)

    def react(self, transition: Transition) -> None:
        for key, end in transition.expiring.items():
            self._drive.timers.cancel(self._timers.pop(key, 0))
            if end is not None:
                self._begin(key, end)

    def _begin(self, key: str, end: float) -> None:
        seconds = (end - now()) / 1000
        self._timers[key] = self._drive.timers.after(seconds, self._due, key, end)

    def _due(self, key: str, end: float) -> None:
        del self._timers[key]
        self._drive.arrive(KeyDue(key, end))
