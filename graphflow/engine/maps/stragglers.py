"""Which items of a map took far longer than the others? In memory that does not grow with the map.

Durations are counted in bins whose bounds grow by a constant ratio, which gives a median that is right to a few per
cent; only the slowest items are kept one by one. Who measures durations, and where what is found here is stored, is
none of its business.
"""

from __future__ import annotations

from math import log2

from graphflow.ids import ItemNumber

#: An item that took this many times the median is a straggler. Calls to the outside world scatter: with the usual
#: log-normal spread (sigma 0.6) one item in 100 takes over 4 times the median, but only one in 270 over 5 times.
STRAGGLER_FACTOR = 5.0
#: Seconds that an item has to have taken, whatever the median. Below, it is the event loop that was busy.
FLOOR_SECONDS = 0.01
#: Slowest items that are kept.
STRAGGLERS_KEPT = 10
#: Durations below which the median says nothing.
ENOUGH_ITEMS = 5

#: Bins per doubling: neighbouring bounds are 19 % apart.
_BINS_PER_OCTAVE = 4
#: Seconds (61 microseconds) up to which durations fall into the first bin.
_LEAST_SECONDS = 2.0**-14
#: Up to 2**12 seconds, a little over an hour; what takes longer falls into the last one.
_BINS = 26 * _BINS_PER_OCTAVE
_FIRST_BIN = _BINS_PER_OCTAVE * 14


class Durations:
    """How long the items of one visit took."""

    __slots__ = ("_bins", "_count", "_slowest", "_worth_keeping")

    def __init__(self) -> None:
        self._bins = [0] * _BINS
        self._count = 0
        #: Seconds by index, of the slowest items so far.
        self._slowest: dict[ItemNumber, float] = {}
        #: Seconds that an item has to take to be among them.
        self._worth_keeping = FLOOR_SECONDS

    def note(self, index: ItemNumber, seconds: float) -> None:
        """Item `index` took `seconds`; of an item that is noted more than once the longest time is kept."""
        self._count += 1
        place = int(log2(seconds) * _BINS_PER_OCTAVE + _FIRST_BIN) if seconds > _LEAST_SECONDS else 0
        self._bins[place if place < _BINS else -1] += 1
        if seconds > self._worth_keeping:
            self._keep(index, seconds)

    @property
    def median(self) -> float | None:
        """Seconds; None before enough items have ended."""
        if self._count < ENOUGH_ITEMS:
            return None
        wanted = self._count / 2
        for place, count in enumerate(self._bins):
            if count >= wanted:
                exponent: float = (place + wanted / count - _FIRST_BIN) / _BINS_PER_OCTAVE
                return float(2.0**exponent)
            wanted -= count
        raise AssertionError("the bins hold as many as were counted")

    def report(self) -> list[tuple[ItemNumber, float]]:
        """(index, seconds) of the stragglers, the slowest first, 10 at most.

        By the median of now: what ended before it was known, or while it was another, is judged like the rest.
        """
        median = self.median
        if median is None:
            return []
        bound = max(FLOOR_SECONDS, STRAGGLER_FACTOR * median)
        found = [(index, seconds) for index, seconds in self._slowest.items() if seconds > bound]
        return sorted(found, key=lambda each: (-each[1], each[0]))

    def _keep(self, index: ItemNumber, seconds: float) -> None:
        slowest = self._slowest
        slowest[index] = max(seconds, slowest.get(index, 0.0))
        if len(slowest) > STRAGGLERS_KEPT:
            del slowest[min(slowest, key=slowest.__getitem__)]
        if len(slowest) == STRAGGLERS_KEPT:
            self._worth_keeping = min(slowest.values())
