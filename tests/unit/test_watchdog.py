"""What becomes of a run that stands still."""

from __future__ import annotations

from graphflow.engine.watchdog import Watchdog
from graphflow.testing import TurnedClock
from tests.unit.scene import Scene, agent, scene, turned


def nodes():
    made = agent()

    @made.node
    def only():
        return 1

    return made


def dog(s: Scene, still: list[bool], stalls: list[float], clock: TurnedClock) -> Watchdog:
    made = Watchdog(s.drive, 8, stands_still=lambda: still[-1], on_stall=lambda: stalls.append(clock.seconds))
    made.start()
    return made


def test_run_that_stands_still_for_its_seconds_is_reported_once() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            stalls: list[float] = []
            dog(s, [True], stalls, clock)

            await clock.turn(9)
            assert stalls == []
            await clock.turn(30)

            assert stalls == [10], "seen at 2, and still so 8 seconds later"

    turned(main)


def test_run_that_has_turns_in_between_is_not_reported() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            stalls: list[float] = []
            watchdog = dog(s, [True], stalls, clock)

            for _ in range(10):
                await clock.turn(3)
                s.drive.begin_turn()

            assert stalls == []
            watchdog.close()

    turned(main)


def test_time_in_which_something_goes_on_does_not_count() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            stalls: list[float] = []
            still = [True]
            dog(s, still, stalls, clock)
            await clock.turn(7)
            still.append(False)
            await clock.turn(2)
            still.append(True)

            await clock.turn(8.5)
            assert stalls == []
            await clock.turn(1)
            assert stalls == [18]

    turned(main)


def test_closed_watchdog_reports_nothing() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            stalls: list[float] = []
            watchdog = dog(s, [True], stalls, clock)

            watchdog.close()

            await clock.turn(100)
            assert stalls == []

    turned(main)
