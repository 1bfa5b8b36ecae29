"""Ends the patience of those who wait for a signal with a timeout, while the run is driven."""

from __future__ import annotations

from graphflow.clock import now
from graphflow.engine.drive import Drive
from graphflow.inputs import SignalOverdue
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
