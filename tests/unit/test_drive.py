"""A run while it is driven: turns, arrivals, timers, and what breaks it off."""

from __future__ import annotations

import asyncio

import pytest

from graphflow.engine.returned import Returned
from graphflow.graph.tasks import RunStatus
from graphflow.inputs import Begin, StateSet, Stop
from graphflow.testing import TurnedClock
from tests.unit.scene import agent, scene, turned, turns


def nodes():
    made = agent()

    @made.node
    async def first():
        return 1

    @made.node
    async def second():
        return 2

    return made


def test_whatever_arrives_makes_a_turn_due() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            waiting = asyncio.create_task(s.drive.wait_news())
            await turns()
            assert not waiting.done()
            assert not s.drive.is_due

            s.drive.arrive(Begin())

            await waiting
            assert s.drive.is_due
            s.drive.begin_turn()
            assert not s.drive.is_due
            assert s.drive.turns == 1

    turned(main)


def test_looking_again_brings_news_but_no_turn() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            waiting = asyncio.create_task(s.drive.wait_news())
            await turns()

            s.drive.look_again()

            await waiting
            assert not s.drive.is_due

    turned(main)


def test_drive_that_was_broken_off_raises_the_first_error_at_its_next_turn() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            s.drive.break_off(ValueError("first"))
            s.drive.break_off(ValueError("second"))

            with pytest.raises(ValueError, match="first"):
                s.drive.begin_turn()

    turned(main)


def test_requests_from_outside_come_before_what_arrived_from_within() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            within, request = StateSet({"a": "1"}), Stop(RunStatus.CANCELLED, "enough")
            s.drive.arrive(within)

            s.drive.arrive_first(request)

            assert [s.drive.next_arrival().came_to for _ in range(2)] == [request, within]
            assert not s.drive.has_arrivals

    turned(main)


def test_what_was_parked_comes_again_first_and_in_its_order() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            one, two = s.attempt("first"), s.attempt("second")
            s.drive.arrive(Returned("1"), one)
            s.drive.arrive(Returned("2"), two)
            s.drive.park(s.drive.next_arrival())
            s.drive.park(s.drive.next_arrival())
            s.drive.arrive(Begin())
            assert s.drive.parked == [one, two]

            s.drive.unpark()

            arrivals = [s.drive.next_arrival() for _ in range(3)]
            assert [arrival.attempt for arrival in arrivals] == [one, two, None]
            assert s.drive.parked == []

    turned(main)


def test_state_set_at_once_waits_for_its_commit() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            asker = s.attempt("first")
            setting = asyncio.create_task(s.drive.set_now("key", "1", None, asker))
            await turns()
            arrival = s.drive.next_arrival()
            assert (arrival.came_to, arrival.asker) == (StateSet({"key": "1"}), asker)
            assert not setting.done()

            assert arrival.committed is not None
            arrival.committed.set_result(None)

            await setting

    turned(main)


def test_what_was_not_folded_is_left_over() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            s.drive.arrive(Returned("1"), s.attempt("first"))
            s.drive.park(s.drive.next_arrival())
            s.drive.arrive(Begin())

            assert [arrival.came_to for arrival in s.drive.left()] == [Begin(), Returned("1")]

    turned(main)


def test_timers_fire_in_their_order_but_for_those_that_were_cancelled() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            fired: list[tuple[str, float]] = []

            def note(name: str) -> None:
                fired.append((name, clock.seconds))

            timers = s.drive.timers
            timers.after(5, note, "late")
            timers.after(2, note, "early")
            cancelled = timers.after(3, note, "cancelled")
            assert timers.next_at == 2
            timers.cancel(cancelled)
            timers.cancel(cancelled)
            assert cancelled not in timers

            await clock.turn(10)

            assert fired == [("early", 2), ("late", 5)]
            assert (len(timers), timers.next_at) == (0, None)

    turned(main)
