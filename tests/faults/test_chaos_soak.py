"""Everything at once, drawn by a seed: runs of several kinds, each struck by faults of all kinds (F1 to F19, F32 to F34).

`GRAPHFLOW_SEED` repeats what a seed has drawn, as far as the moments of the machine allow.
"""

from __future__ import annotations

import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import pytest

from tests.faults.chaos import Chaos
from tests.faults.kinds import KINDS, Kind
from tests.faults.strikes import ALL_STRIKES, CANCEL, STRIKES

SEED_VARIABLE = "GRAPHFLOW_SEED"
FAULTS_PER_RUN = 4
#: Runs at a time, each with a server, a network and processes of its own.
SIDE_BY_SIDE = 2
#: Seconds between two strikes, at most.
PAUSE_SECONDS = 0.25
#: Seconds in which runs are begun: with the last ones it is half a minute.
QUICK_SECONDS = 24

T = TypeVar("T")


class Deck(Generic[T]):
    """Cards in random order, for ever: nearly all of them come once before one comes again."""

    def __init__(self, cards: Sequence[T], numbers: random.Random) -> None:
        self._cards = cards
        self._numbers = numbers
        self._left: list[T] = []

    def draw(self, count: int, without: Collection[T] = ()) -> list[T]:
        """The next cards, except those which stay for a later draw."""
        while len([card for card in self._left if card not in without]) < count:
            self._left += self._numbers.sample(self._cards, len(self._cards))
        drawn = [card for card in self._left if card not in without][:count]
        for card in drawn:
            self._left.remove(card)
        return drawn


@dataclass(frozen=True, slots=True)
class Fate:
    """What is drawn for one run."""

    number: int
    kind: Kind
    faults: list[str]
    seed: int


class Walk:
    """Draws the fates of runs, brings them about, and counts what came of them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._numbers = random.Random(seed)
        self._folder = folder
        self._kinds = Deck(KINDS, self._numbers)
        self._faults = Deck(list(STRIKES), self._numbers)
        self._lock = Lock()
        self._drawn = 0
        self.ends: Counter[str] = Counter()
        self._strikes: Counter[str] = Counter()
        #: Strikes that met a run in its middle.
        self._hits = 0

    def go_on_until(self, end: float) -> None:
        """One run after the other, until the clock says so or one is wrong."""
        while time.monotonic() < end:
            self._live(self._draw())

    def _draw(self) -> Fate:
        with self._lock:
            self._drawn += 1
            (kind,) = self._kinds.draw(1)
            faults = self._faults.draw(FAULTS_PER_RUN, kind.without)
            if kind.is_cancelled:
                faults.insert(self._numbers.randrange(FAULTS_PER_RUN), CANCEL)
            return Fate(self._drawn, kind, faults, self._numbers.randrange(1 << 32))

    def _live(self, fate: Fate) -> None:
        began = time.monotonic()
        end = "wrong"
        with Chaos(fate.kind, f"soak-{fate.number}", self._folder, random.Random(fate.seed)) as chaos:
            try:
                for fault in fate.faults:
                    self._strike(chaos, fault)
                end = chaos.finish()
            except Exception:
                # Here and now: the other runs go on to their ends before the test fails.
                traceback.print_exc(file=sys.stdout)
                print(chaos.said)
                raise
            finally:
                took = time.monotonic() - began
                story = ", ".join(chaos.story)
                print(
                    f"{fate.number}. {fate.kind.name}, {chaos.appendfsync}: {story}: {end} after {took:.1f} s"
                )
        with self._lock:
            self.ends[f"{fate.kind.name}: {end}"] += 1

    def _strike(self, chaos: Chaos, fault: str) -> None:
        chaos.start_again_who_died()
        chaos.wait(PAUSE_SECONDS)
        is_hit = chaos.is_under_way()
        with self._lock:
            self._hits += is_hit
            self._strikes[fault] += 1
        chaos.story.append(fault)
        ALL_STRIKES[fault](chaos)

    def summary(self) -> str:
        counts = [
            f"{count:5} {name}" for each in (self.ends, self._strikes) for name, count in sorted(each.items())
        ]
        return "\n".join(
            (
                f"{self.ends.total()} of {self._drawn} runs right, {self._strikes.total()} faults, "
                f"{self._hits} of them in the middle of a run",
                *counts,
            )
        )


@pytest.mark.parametrize(
    ("seconds", "least"), [(QUICK_SECONDS, 3), pytest.param(20 * 60, 50, marks=pytest.mark.long)]
)
def test_runs_come_to_their_right_end_through_faults_of_all_kinds(
    seconds: float, least: int, tmp_path: Path
) -> None:
    seed = int(os.environ.get(SEED_VARIABLE) or random.randrange(1 << 32))
    print(f"{SEED_VARIABLE}={seed}")
    walk = Walk(seed, tmp_path)
    end = time.monotonic() + seconds

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        walking = [pool.submit(walk.go_on_until, end) for _ in range(SIDE_BY_SIDE)]
    print(walk.summary())

    for each in walking:
        each.result()
    assert walk.ends.total() >= least
