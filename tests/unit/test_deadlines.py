"""When the time of attempts is up."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import cast

import pytest

from graphflow.engine.attempt import Attempt
from graphflow.engine.deadlines import Deadlines
from graphflow.testing import TurnedClock
from tests.helpers import SOON_SECONDS
from tests.unit.scene import turned


class Timed:
    """As much of an attempt as deadlines look at."""


def timed() -> Attempt:
    return cast("Attempt", Timed())


def watched() -> tuple[Deadlines, list[Attempt]]:
    overdue: list[Attempt] = []
    return Deadlines(contextvars.copy_context(), lambda attempt, left: overdue.append(attempt)), overdue


def test_each_is_overdue_when_its_own_time_is_up_whatever_the_order_of_starts() -> None:
    async def main(clock: TurnedClock) -> None:
        deadlines, overdue = watched()
        long, short, last = timed(), timed(), timed()
        deadlines.start(long, 10)
        deadlines.start(short, 3)
        await clock.turn(2)
        deadlines.start(last, 10)

        await clock.turn(0.9)
        assert overdue == []
        await clock.turn(0.2)
        assert overdue == [short]
        await clock.turn(7)
        assert overdue == [short, long]
        await clock.turn(2)
        assert overdue == [short, long, last]

    turned(main)


def test_who_ended_before_is_not_overdue_and_knows_what_was_left() -> None:
    async def main(clock: TurnedClock) -> None:
        deadlines, overdue = watched()
        attempt = timed()
        deadlines.start(attempt, 10)
        await clock.turn(4)

        assert deadlines.stop(attempt, 10) == pytest.approx(6)
        assert deadlines.stop(attempt, 10) is None
        await clock.turn(100)
        assert overdue == []

    turned(main)


def test_time_that_goes_on_after_a_wait_ends_before_that_of_who_started_earlier() -> None:
    async def main(clock: TurnedClock) -> None:
        deadlines, overdue = watched()
        other, waited = timed(), timed()
        deadlines.start(other, 10)
        deadlines.start(waited, 10)
        await clock.turn(1)
        deadlines.stop(waited, 10)

        deadlines.resume(waited, 2)

        await clock.turn(2.5)
        assert overdue == [waited]
        await clock.turn(7)
        assert overdue == [waited, other]

    turned(main)


def test_who_is_overdue_has_no_time_left_and_less_where_the_loop_was_late() -> None:
    async def main(clock: TurnedClock) -> None:
        lefts: dict[Attempt, float] = {}
        deadlines = Deadlines(contextvars.copy_context(), lefts.__setitem__)
        in_time, late, resumed = timed(), timed(), timed()
        deadlines.start(in_time, 5)
        await clock.turn(6)

        deadlines.start(late, 5)
        deadlines.resume(resumed, 4)
        clock.move_to(26)
        await clock.turn(0)

        assert lefts == {in_time: 0, late: -15, resumed: -16}
        assert [deadlines.stop(attempt, 5) for attempt in lefts] == [None, None, None]

    turned(main)


def test_nobody_is_overdue_once_all_is_closed() -> None:
    async def main(clock: TurnedClock) -> None:
        deadlines, overdue = watched()
        deadlines.start(timed(), 1)

        deadlines.close()

        await clock.turn(10)
        assert overdue == []

    turned(main)


class LoopFromZero(asyncio.SelectorEventLoop):
    """Its clock is its own, as that of a loop may be."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        super().__init__()

    def time(self) -> float:
        return time.monotonic() - self._began


def test_time_is_up_by_the_clock_of_the_loop() -> None:
    async def main() -> bool:
        up = asyncio.Event()
        deadlines = Deadlines(contextvars.copy_context(), lambda attempt, left: up.set())
        deadlines.start(timed(), 0.1)
        async with asyncio.timeout(SOON_SECONDS):
            return await up.wait()

    with asyncio.Runner(loop_factory=LoopFromZero) as runner:
        assert runner.run(main())
