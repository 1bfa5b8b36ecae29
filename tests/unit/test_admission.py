"""Which module runs get slots, and in which order."""

from __future__ import annotations

import asyncio

from graphflow.graph.tasks import RunStatus
from graphflow.inputs import Outcome, RetryDue, Started, Stop
from graphflow.run import NodeStatus
from graphflow.testing import TurnedClock
from tests.unit.scene import Scene, agent, scene, turned, turns


def three(**options):
    made = agent(**options)

    @made.node
    async def one():
        await asyncio.sleep(1)

    @made.node(max_concurrency=1)
    async def two():
        await asyncio.sleep(1)

    @made.node
    async def three():
        await asyncio.sleep(1)

    return made


def names(attempts) -> list[str]:
    return [attempt.node.name for attempt in attempts]


def add(s: Scene, *nodes: str) -> None:
    for name in nodes:
        s.admission.add(s.index(name), 0)


def test_who_is_ready_first_is_admitted_first_as_long_as_slots_are_free() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(three(max_concurrent_tasks=2)) as s:
            add(s, "three", "one", "two")

            assert names(s.admission.admit()) == ["three", "one"]
            assert names(s.admission.waiting) == ["two"]
            assert s.admission.admit() == []

    turned(main)


def test_node_at_its_max_concurrency_does_not_hold_up_those_behind_it() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(three()) as s:
            add(s, "two", "two", "one")

            assert names(s.admission.admit()) == ["two", "one"]
            assert names(s.admission.waiting) == ["two"]

    turned(main)


def test_who_is_put_back_runs_before_the_others() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(three(max_concurrent_tasks=1)) as s:
            add(s, "one")

            s.admission.put_back(s.attempt("three"))

            assert names(s.admission.admit()) == ["three"]

    turned(main)


def test_node_whose_visit_is_over_is_not_admitted() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(three()) as s:
            add(s, "one", "two")

            s.admission.drop_node(s.index("one"))

            assert names(s.admission.admit()) == ["two"]

    turned(main)


def test_module_that_was_running_when_the_run_was_loaded_is_ready_again() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(three()) as s:
            s.fold(Started(s.index("one"), 0))

            s.admission.enter_node(s.index("one"))

            assert names(s.admission.waiting) == ["one"]
            assert s.run.nodes[s.index("one")].modules[0].status is NodeStatus.READY

    turned(main)


def test_module_that_waited_for_its_retry_when_the_run_was_loaded_waits_no_longer_than_any_does() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(three()) as s:
            module = s.run.nodes[s.index("one")].modules[0]
            module.status = NodeStatus.WAITING
            module.retry_at = 1e18

            s.admission.enter_node(s.index("one"))

            assert s.admission.waiting == []
            await clock.turn(29)
            assert not s.drive.has_arrivals
            await clock.turn(2)
            assert s.drive.next_arrival().came_to == RetryDue(s.index("one"), 0)

    turned(main)


def test_who_comes_back_after_a_message_goes_on_before_anybody_starts() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(three(max_concurrent_tasks=1)) as s:
            attempt = s.start("one")
            s.slots.step_aside(attempt)
            coming_back = asyncio.create_task(s.slots.come_back(attempt))
            await turns()
            add(s, "two")

            assert s.admission.admit() == []

            await coming_back
            assert (attempt.holds_slot, names(s.admission.waiting)) == (True, ["two"])

    turned(main)


def test_who_comes_back_waits_while_all_slots_are_taken() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(three(max_concurrent_tasks=1)) as s:
            attempt = s.start("one")
            s.slots.step_aside(attempt)
            s.start("two")
            coming_back = asyncio.create_task(s.slots.come_back(attempt))
            await turns()

            s.admission.admit()
            await turns()

            assert not coming_back.done()
            assert s.admission.waiting == [attempt]
            coming_back.cancel()

    turned(main)


def test_who_is_over_when_it_would_come_back_is_forgotten() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(three()) as s:
            attempt = s.start("one")
            await clock.turn(2)
            s.slots.returning.append(attempt)

            s.admission.admit()

            assert s.admission.waiting == []
            assert not attempt.holds_slot

    turned(main)


def test_nothing_but_suspects_is_admitted_after_deaths_until_they_are_cleared() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(three()) as s:
            s.run.nodes[s.index("two")].crashes = 2
            s.line.enter_suspects()
            add(s, "one", "two", "three")

            assert names(s.admission.admit()) == ["two"]
            assert s.line.clear_suspects()
            assert not s.line.clear_suspects()

            assert names(s.admission.admit()) == ["one", "three"]

    turned(main)


def test_outcome_of_a_node_of_a_run_that_was_stopped_changes_nothing() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(three()) as s:
            s.fold(Stop(RunStatus.CANCELLED, "enough"))

            transition = s.fold(Outcome(s.index("one"), 0, 1, "1"))

            assert transition.events == []

    turned(main)
