"""The places in which attempts run."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress

import pytest

from graphflow.engine.attempt import Attempt
from graphflow.engine.maps.plain import PlainBody
from graphflow.engine.returned import Returned
from graphflow.failpoints import watched
from graphflow.testing import TurnedClock
from tests.unit.scene import Scene, agent, scene, turned, turns


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


class Held:
    """Sync bodies that hang until `let_go` is set, and how many of them are at work."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.at_work = 0

    def __call__(self) -> None:
        self.at_work += 1
        self.let_go.wait()
        self.at_work -= 1


def holding(kind: str, held: Held, **options):
    """A graph with the node `work` of this kind, which takes one at a time."""
    made = agent()
    options = {"max_concurrency": 1, "timeout": 2} | options

    def sync_node():
        held()

    async def step_node(cache):
        await cache.step("hangs", held)

    def item(item):
        held()

    def batch(item):
        held()
        return item

    def item_with_state(item, task):
        held()

    async def coroutine_node():
        while not held.let_go.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(5)

    if kind in ("item", "batch", "item_with_state"):
        options["map_over"] = "xs"
    if kind == "batch":
        options["batch_size"] = 2
    made.node(name="work", **options)(locals()[kind])
    return made


def start_work(s: Scene) -> Attempt:
    """A next attempt of the node `work`, as admission or refill begin it."""
    index = s.index("work")
    node = s.plan.nodes[index]
    if node.map is None:
        attempt = s.attempt("work")
        s.slots.take(attempt)
        s.slots.launch(attempt)
        return attempt
    body = s.bodies.of_items(index)
    batch = (0, 1) if node.map.batch_size else ()
    attempt = Attempt(body, 1, 0, "[1,2]" if batch else "1", batch)
    s.slots.take(attempt)
    if isinstance(body, PlainBody):
        s.slots.delegate(attempt, body.executor, body.call.run, attempt.text, batch or 0)
    else:
        s.slots.launch(attempt)
    return attempt


KINDS = ["sync_node", "step_node", "item", "batch", "item_with_state", "coroutine_node"]


@pytest.mark.parametrize("kind", KINDS)
def test_attempt_whose_time_is_up_has_taken_its_time_whatever_its_body_still_does(kind: str) -> None:
    held = Held()

    async def main(clock: TurnedClock) -> None:
        async with scene(holding(kind, held), xs=[1, 2]) as s:
            attempt = start_work(s)
            await until_begun(held, kind)
            await clock.turn(5)
            held.let_go.set()
            await clock.turn(5)
            await clock.settle()

            assert s.came_to(attempt).failure.type == "ModuleTimeout"
            assert attempt.seconds == pytest.approx(2)

    turned(main)


def test_attempt_that_ends_while_it_waits_for_a_message_has_taken_the_time_before() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(sleeper(seconds=10)) as s:
            attempt = s.start("one")
            await clock.turn(2)
            s.slots.step_aside(attempt)
            await clock.turn(3)

            s.slots.stop_node(attempt.node.index)
            await turns()

            assert s.came_to(attempt) is None
            assert attempt.seconds == pytest.approx(2)

    turned(main)


@pytest.mark.parametrize("kind", KINDS)
def test_attempt_passes_the_failpoint_of_its_end_once_whatever_ends_it(kind: str) -> None:
    held = Held()
    passed: list[str] = []

    async def main(clock: TurnedClock) -> None:
        async with scene(holding(kind, held), xs=[1, 2]) as s:
            with watched(passed.append):
                start_work(s)
                await until_begun(held, kind)
                await clock.turn(5)
                held.let_go.set()
                await clock.turn(5)
                await clock.settle()

    turned(main)
    assert passed.count("attempt.returned") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_body_that_works_beyond_its_time_keeps_its_place_among_its_node_until_it_ends(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held()

    async def main(clock: TurnedClock) -> None:
        async with scene(holding(kind, held), xs=[1, 2]) as s:
            attempt = start_work(s)
            await until_begun(held, kind)
            await clock.turn(5)

            assert s.came_to(attempt).failure.type == "ModuleTimeout"
            assert (s.slots.free, s.slots.is_idle) == (100, True), "the run has its slot"
            assert not s.slots.has_room(Attempt(attempt.body, 1, 0))
            assert s.slots.room_for_items(attempt.node.index, 1) == 0
            assert s.slots.blocked_nodes == [attempt.node.index]

            s.drive.begin_turn()
            held.let_go.set()
            await clock.turn(5)
            await clock.settle()

            assert s.slots.has_room(Attempt(attempt.body, 1, 0))
            assert s.slots.blocked_nodes == []
            assert s.drive.is_due, "who waits for the place is asked again"
            assert "at once" not in caplog.text

    turned(main)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("timeout", "kept"), [(2, 10), (20, 20)])
def test_body_that_never_ends_loses_its_place_after_another_timeout_with_one_warning(
    kind: str, timeout: int, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held()

    async def main(clock: TurnedClock) -> None:
        async with scene(holding(kind, held, timeout=timeout), xs=[1, 2]) as s:
            attempt = start_work(s)
            await until_begun(held, kind)
            # A coroutine is left behind after a grace of 1 to 2 s.
            await clock.turn(timeout + kept - 0.5)
            assert s.slots.blocked_nodes == [attempt.node.index]
            s.drive.begin_turn()

            await clock.turn(3)

            assert s.slots.has_room(Attempt(attempt.body, 1, 0))
            assert s.drive.is_due
            [warning] = [record.message for record in caplog.records if "at once" in record.message]
            assert f"{attempt.description} is still at work {kept} s after it was left behind" in warning

            held.let_go.set()
            await clock.turn(5)
            await clock.settle()
            assert s.slots.room_for_items(attempt.node.index, 1) == 1, "its end frees no second place"

    turned(main)


@pytest.mark.parametrize("kind", KINDS)
def test_body_that_was_stopped_keeps_its_place_too(kind: str) -> None:
    held = Held()

    async def main(clock: TurnedClock) -> None:
        async with scene(holding(kind, held, timeout=100), xs=[1, 2]) as s:
            attempt = start_work(s)
            await until_begun(held, kind)
            s.slots.stop_node(attempt.node.index)
            await clock.turn(3)

            assert s.came_to(attempt) is None
            assert not s.slots.has_room(Attempt(attempt.body, 1, 0))
            held.let_go.set()
            await clock.turn(5)
            await clock.settle()
            assert s.slots.has_room(Attempt(attempt.body, 1, 0))

    turned(main)


def test_body_that_is_left_behind_at_the_end_of_a_run_is_not_waited_for() -> None:
    held = Held()

    async def main(clock: TurnedClock) -> None:
        async with scene(holding("sync_node", held)) as s:
            start_work(s)
            await until_begun(held, "sync_node")
            began = clock.seconds
            await s.slots.stop_all()

            assert clock.seconds - began < 1
            assert held.at_work == 1
            assert s.slots.blocked_nodes == []
        held.let_go.set()

    turned(main)


@pytest.mark.parametrize("kind", KINDS)
def test_node_without_max_concurrency_keeps_no_place(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    held = Held()

    async def main(clock: TurnedClock) -> None:
        async with scene(holding(kind, held, max_concurrency=None), xs=[1, 2]) as s:
            start_work(s)
            await until_begun(held, kind)
            await clock.turn(30)

            assert s.slots.blocked_nodes == []
            assert "at once" not in caplog.text
            held.let_go.set()
            await clock.turn(5)
            await clock.settle()

    turned(main)


async def until_begun(held: Held, kind: str) -> None:
    """The body is at work, in its thread or on the event loop."""
    if kind == "coroutine_node":
        await turns()
        return
    while not held.at_work:  # noqa: ASYNC110 - it begins in a thread
        await asyncio.sleep(0.001)


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
