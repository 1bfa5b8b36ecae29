"""The places in which attempts run."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from graphflow.engine.attempt import Attempt
from graphflow.engine.maps.plain import PlainBody
from graphflow.engine.returned import Returned
from graphflow.testing import TurnedClock
from tests.unit.scene import agent, scene, turned, turns


def sleeper(seconds=3.0, limit=None, **options):
    """Two nodes that sleep."""
    made = agent(**options)

    @made.node(max_concurrency=limit)
    async def one():
        await asyncio.sleep(seconds)
        return "one"

    @made.node
    async def two():
        await asyncio.sleep(seconds)
        return "two"

    return made


def test_attempt_that_ends_gives_its_slot_back_and_says_what_it_came_to() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(sleeper(max_concurrent_tasks=2)) as s:
            attempt = s.start("one")

            assert (s.slots.free, s.slots.running(attempt.node.index), s.slots.is_idle) == (1, 1, False)
            await clock.turn(3)

            assert (s.slots.free, s.slots.running(attempt.node.index), s.slots.is_idle) == (2, 0, True)
            assert s.came_to(attempt) == Returned('"one"')
            assert attempt.seconds == 3

    turned(main)


def test_no_attempt_has_room_when_all_slots_are_taken() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(sleeper(max_concurrent_tasks=1)) as s:
            s.start("one")

            assert not s.slots.has_room(s.attempt("two"))

    turned(main)


def test_node_has_as_many_slots_as_its_max_concurrency() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(sleeper(limit=1)) as s:
            s.start("one")

            assert not s.slots.has_room(s.attempt("one"))
            assert s.slots.has_room(s.attempt("two"))
            assert s.slots.room_for_items(s.index("one"), 1) == 0

    turned(main)


def test_attempt_beyond_its_timeout_fails_and_the_others_go_on() -> None:
    made = agent()

    @made.node(timeout=5)
    async def slow():
        await asyncio.sleep(100)

    @made.node
    async def other():
        await asyncio.sleep(7)

    async def main(clock: TurnedClock) -> None:
        async with scene(made) as s:
            slow_one, other_one = s.start("slow"), s.start("other")

            await clock.turn(4.9)
            assert s.ended == []
            await clock.turn(0.2)

            failure = s.came_to(slow_one).failure
            assert (failure.type, failure.message) == ("ModuleTimeout", "no result within timeout=5 s")
            await clock.turn(2)
            assert s.came_to(other_one) == Returned("null")

    turned(main)


def test_stopped_attempt_is_cancelled_and_comes_to_nothing() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(sleeper()) as s:
            one, two = s.start("one"), s.start("two")
            await turns()

            s.slots.stop_node(one.node.index)
            await turns()

            assert s.came_to(one) is None
            assert s.slots.running(two.node.index) == 1

    turned(main)


def test_attempt_that_ignores_its_cancellation_is_left_behind_after_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = agent()

    @made.node(timeout=1)
    async def stubborn():
        for _ in range(100):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                continue

    async def main(clock: TurnedClock) -> None:
        async with scene(made) as s:
            attempt = s.start("stubborn")

            await clock.turn(1.5)
            assert s.ended == []
            await clock.turn(2)

            assert s.came_to(attempt).failure.type == "ModuleTimeout"
            assert attempt.is_abandoned
            assert s.slots.is_idle
            assert "node 'stubborn' ignores its cancellation" in caplog.text

    turned(main)


def test_stopping_everything_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    made = agent()

    @made.node
    async def stubborn():
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                continue

    async def main(clock: TurnedClock) -> None:
        async with scene(made) as s:
            s.start("stubborn")
            await turns()
            began = clock.seconds

            await s.slots.stop_all()

            assert clock.seconds - began == pytest.approx(5)
            assert "left behind" in caplog.text

    with caplog.at_level(logging.WARNING):
        turned(main)


def test_attempt_that_steps_aside_frees_its_slot_and_its_time_stands_still() -> None:
    made = agent(max_concurrent_tasks=1)

    @made.node(timeout=5)
    async def waits():
        await asyncio.sleep(1000)

    async def main(clock: TurnedClock) -> None:
        async with scene(made) as s:
            attempt = s.start("waits")
            await clock.turn(2)

            s.slots.step_aside(attempt)
            assert (s.slots.free, s.slots.is_idle) == (1, True)
            await clock.turn(100)
            assert s.ended == []

            coming_back = asyncio.create_task(s.slots.come_back(attempt))
            await turns()
            assert [*s.slots.returning] == [attempt]
            s.slots.returning.clear()
            s.slots.let_come_back(attempt)
            await coming_back
            assert s.slots.free == 0
            await clock.turn(2.5)
            assert s.ended == []
            await clock.turn(1)
            assert s.came_to(attempt).failure.type == "ModuleTimeout"

    turned(main)


def test_items_of_a_map_may_take_what_its_max_concurrency_leaves() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(sleeper(max_concurrent_tasks=5)) as s:
            s.start("one")

            assert s.slots.room_for_items(s.index("one"), 3) == 2
            assert s.slots.room_for_items(s.index("one"), None) == 4

    turned(main)


def test_sync_body_whose_time_is_up_is_not_waited_for() -> None:
    made = agent()
    goes_on = threading.Event()

    @made.node(map_over="xs", timeout=5)
    def double(item):
        goes_on.wait()
        return item * 2

    async def main(clock: TurnedClock) -> None:
        async with scene(made, xs=[1]) as s:
            body = s.bodies.of_items(s.index("double"))
            assert isinstance(body, PlainBody)
            attempt = Attempt(body, 1, 0, "1")
            s.slots.take(attempt)
            s.slots.delegate(attempt, body.executor, body.call.run, "1", 0)

            await clock.turn(6)

            assert s.came_to(attempt).failure.type == "ModuleTimeout"
            assert s.slots.free == 100
            goes_on.set()
            await clock.settle()
            assert len(s.ended) == 1, "what comes second comes too late"

    turned(main)


def test_what_the_loop_is_busy_with_is_named() -> None:
    made = agent()
    named = []

    @made.node
    async def busy():
        named.append(at_work())

    async def main(clock: TurnedClock) -> None:
        nonlocal at_work
        async with scene(made) as s:
            at_work = s.slots.at_work
            s.start("busy")
            await clock.settle()

            assert named == ["node 'busy'"]
            assert at_work() == "something outside the run"

    def at_work() -> str:
        raise AssertionError

    turned(main)
