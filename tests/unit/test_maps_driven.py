"""Maps while they are driven: their items, the pages they come in, what they come to."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest

from graphflow import Agent, Task
from graphflow.engine.maps import items as maps_module
from graphflow.engine.maps import one_map as one_map_module
from graphflow.engine.maps.items import MapItems
from graphflow.engine.maps.refill import Refill
from graphflow.errors import RunInterrupted
from graphflow.graph.tasks import RunStatus
from graphflow.result import RunResult
from graphflow.run import MapState
from graphflow.testing import TurnedClock, crash_at
from tests.unit.scene import RUN, agent, scene, turned

TASK = Task(type="test")


def ran(made: Agent, clock: TurnedClock | None = None, **state) -> RunResult:
    return (clock or TurnedClock()).run(made.run_task(TASK, state=state))


def test_results_come_in_the_order_of_the_items_whatever_ends_first() -> None:
    made = agent()

    @made.node(map_over="xs")
    async def waits(item):
        await asyncio.sleep(item)
        return item

    clock = TurnedClock()
    assert ran(made, clock, xs=[30, 10, 20])["waits"] == [30, 10, 20]
    assert clock.seconds == pytest.approx(30, abs=0.1)


def test_no_more_items_run_at_a_time_than_there_are_slots() -> None:
    made = agent(max_concurrent_tasks=2)
    at_work: set[int] = set()
    most = [0]

    @made.node(map_over="xs")
    async def waits(item):
        at_work.add(item)
        most[0] = max(most[0], len(at_work))
        await asyncio.sleep(1)
        at_work.discard(item)

    clock = TurnedClock()
    ran(made, clock, xs=[*range(10)])
    assert most == [2]
    assert clock.seconds == pytest.approx(5, abs=0.1)


def test_node_of_a_map_has_no_more_items_under_way_than_its_max_concurrency() -> None:
    made = agent()

    @made.node(map_over="xs", max_concurrency=1)
    async def waits(item):
        await asyncio.sleep(1)

    clock = TurnedClock()
    ran(made, clock, xs=[*range(4)])
    assert clock.seconds == pytest.approx(4, abs=0.1)


def test_item_that_fails_is_tried_again_after_a_wait_while_the_others_go_on() -> None:
    made = agent()
    calls: list[int] = []

    @made.node(map_over="xs", max_retries=3)
    async def shaky(item):
        calls.append(item)
        if item == 1 and calls.count(1) < 3:
            raise ValueError("not yet")
        return item

    clock = TurnedClock()
    outcome = ran(made, clock, xs=[1, 2, 3])
    assert outcome["shaky"] == [1, 2, 3]
    assert sorted(calls) == [1, 1, 1, 2, 3]
    assert 0 < clock.seconds < 1


def test_item_that_fails_for_good_leaves_the_run_partial() -> None:
    made = agent()

    @made.node(map_over="xs", max_retries=2)
    async def odd(item):
        if item == 2:
            raise ValueError("even")
        return item

    outcome = ran(made, xs=[1, 2, 3])
    assert (outcome.status, outcome["odd"]) == (RunStatus.PARTIAL, [1, 3])
    [failure] = outcome.failures
    assert (failure.item, failure.attempts, failure.error) == (1, 2, "ValueError: even")


def test_first_failure_ends_a_map_that_is_to_fail_fast() -> None:
    made = agent()
    cancelled: list[int] = []

    @made.node(map_over="xs", on_item_error="fail", max_retries=1)
    async def fails(item):
        try:
            await asyncio.sleep(item)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        raise ValueError(item)

    clock = TurnedClock()
    outcome = ran(made, clock, xs=[1, 50, 60])
    assert outcome.status is RunStatus.FAILED
    assert (sorted(cancelled), clock.seconds) == ([50, 60], pytest.approx(1, abs=0.1))


def test_item_beyond_its_timeout_fails() -> None:
    made = agent()

    @made.node(map_over="xs", timeout=5, max_retries=1)
    async def waits(item):
        await asyncio.sleep(item)
        return item

    outcome = ran(made, xs=[1, 100])
    assert outcome["waits"] == [1]
    assert outcome.failures[0].error == "ModuleTimeout: no result within timeout=5 s"


def test_batch_is_whole_before_it_starts_and_fails_as_one() -> None:
    made = agent()
    batches: list[list[int]] = []

    @made.node(map_over="xs", batch_size=3, max_retries=1)
    async def sums(item, index):
        batches.append(index)
        if 4 in item:
            raise ValueError
        return [x * 10 for x in item]

    outcome = ran(made, xs=[0, 1, 2, 3, 4, 5, 6])
    assert sorted(batches) == [[0, 1, 2], [3, 4, 5], [6]]
    assert outcome["sums"] == [0, 10, 20, 60]
    assert [failure.item for failure in outcome.failures] == [3, 4, 5]


def test_items_that_write_the_same_key_lose_nothing() -> None:
    made = agent()

    @made.node(map_over="xs")
    async def adds(item, cache):
        total = await cache.get("total", 0)
        await asyncio.sleep(1)
        await cache.set("total", total + item)

    assert ran(made, xs=[1, 2, 3, 4])["total"] == 10


def test_no_more_of_a_generator_is_stored_than_its_items_keep_up_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(one_map_module, "WINDOW_ITEMS", 10)
    made = agent(max_concurrent_tasks=2)

    async def numbers():
        for number in range(50):
            yield number
            await asyncio.sleep(0.01)

    @made.node(map_over=numbers)
    async def waits(item):
        await asyncio.sleep(10)
        return item

    async def main(clock: TurnedClock) -> None:
        running = asyncio.create_task(made.run_task(TASK, run_id=RUN))
        await clock.turn(5)
        assert made.cache.store().runs[RUN].run.maps[0].total == 10
        assert (await running)["waits"] == [*range(50)]

    turned(main)


def test_generator_that_fails_is_begun_again_without_what_is_stored() -> None:
    made = agent()
    begun: list[int] = []

    async def numbers(start):
        begun.append(start)
        for number in range(start, 6):
            if number == 3 and len(begun) == 1:
                await asyncio.sleep(1)
                raise ValueError("broken")
            yield number

    @made.node(map_over=numbers, max_retries=2)
    async def same(item):
        return item

    outcome = ran(made)
    assert outcome["same"] == [0, 1, 2, 3, 4, 5]
    # The last item that is stored is asked for once more.
    assert begun == [0, 2]


def test_generator_that_yields_nothing_for_its_timeout_fails_the_map() -> None:
    made = agent()

    async def silent():
        yield 1
        await asyncio.sleep(1000)

    @made.node(map_over=silent, timeout=5, max_retries=1)
    async def same(item):
        return item

    clock = TurnedClock()
    outcome = ran(made, clock)
    assert outcome.status is RunStatus.FAILED
    assert "silent yielded nothing within timeout=5 s" in outcome.failures[0].error
    assert clock.seconds == pytest.approx(5, abs=0.1)


def test_results_are_reduced_in_the_order_of_the_items() -> None:
    made = agent()

    @made.node(map_over="xs", reduce=lambda text, result: f"{text}{result}")
    async def digits(item):
        await asyncio.sleep(10 - item)
        return str(item)

    assert ran(made, xs=[1, 2, 3, 4])["digits"] == "1234"


def test_reduction_that_fails_fails_the_map_and_stops_its_items() -> None:
    made = agent()

    def broken(value, result):
        raise ValueError("no sum")

    @made.node(map_over="xs", reduce=broken, max_retries=1)
    async def waits(item):
        await asyncio.sleep(item)
        return item

    clock = TurnedClock()
    outcome = ran(made, clock, xs=[1, 2, 500])
    assert outcome.status is RunStatus.FAILED
    assert "no sum" in outcome.failures[0].error
    assert clock.seconds < 100


def test_reduction_that_fails_with_the_last_items_fails_the_map() -> None:
    made = agent()

    def broken(value, result):
        raise ValueError("no sum")

    @made.node(map_over="xs", reduce=broken, max_retries=1)
    async def same(item):
        return item

    assert ran(made, xs=[1, 2]).status is RunStatus.FAILED


def test_pipelined_map_starts_an_item_as_soon_as_the_first_map_has_its_result() -> None:
    made = agent()
    times: dict[str, float] = {}
    clock = TurnedClock()

    @made.node(map_over="xs")
    async def first(item):
        await asyncio.sleep(item)
        return item

    @made.node(map_over="first", pipelined=True)
    async def second(item):
        times[str(item)] = clock.seconds
        return item + 1

    assert ran(made, clock, xs=[1, 50])["second"] == [2, 51]
    assert times["1"] < 2
    assert times["50"] >= 50


def test_condition_reads_what_a_map_came_to() -> None:
    made = agent()

    @made.node(map_over="xs")
    async def double(item):
        return 2 * item

    @made.node(dependencies=["double"], condition="len(nodes.double) == 3 and nodes.double[2] == 6")
    async def then():
        return "yes"

    assert ran(made, xs=[1, 2, 3])["then"] == "yes"


def test_empty_map_comes_to_an_empty_list() -> None:
    made = agent()

    @made.node(map_over="xs")
    async def same(item):
        return item

    assert ran(made, xs=[])["same"] == []


def test_items_that_do_not_fit_into_memory_are_read_from_the_store_page_by_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(maps_module, "QUEUE_ITEMS", 6)
    monkeypatch.setattr(maps_module, "FIRST_PAGE_ITEMS", 2)
    monkeypatch.setattr(maps_module, "PAGE_ITEMS", 3)
    made = agent(max_concurrent_tasks=2)

    @made.node(map_over="xs")
    async def same(item):
        return item

    assert ran(made, xs=[*range(40)])["same"] == [*range(40)]


def test_items_for_which_there_is_a_slot_count_as_in_flight() -> None:
    """They start in the next turn of the loop, and it may be long until a commit tells of them."""
    made = agent(max_concurrent_tasks=2)

    @made.node(map_over="xs")
    async def same(item):
        return item

    async def main(clock: TurnedClock) -> None:
        async with scene(made, xs=[]) as s:
            state = MapState(1, 4, unfinished={0, 1, 2, 3}, span=4)
            items = MapItems(s.bodies.of_items(0), state, fresh=[(index, "1") for index in range(4)])
            refill = Refill(s.drive, s.line, s.slots, s.committer, {})
            assert (items.startable_count, refill.in_flight(items)) == (4, 2)

            first, second, third = islice(items.startable(s.line.may_start), 3)
            s.slots.take(first)
            assert (items.startable_count, refill.in_flight(items)) == (1, 2)

            items.put_back(second)
            items.put_back(third)
            s.slots.give_back(first)
            assert (items.startable_count, refill.in_flight(items)) == (3, 2)

            s.drive.is_draining = True
            assert refill.in_flight(items) == 0

    turned(main)


def test_no_more_items_start_while_too_many_results_wait_for_their_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(maps_module, "MAX_UNCOMMITTED", 2)
    made = agent()

    @made.node(map_over="xs")
    async def same(item):
        return item

    async def main(clock: TurnedClock) -> None:
        async with scene(made, xs=[]) as s:
            state = MapState(1, 4, unfinished={0, 1, 2, 3}, span=4)
            items = MapItems(s.bodies.of_items(0), state, fresh=[(index, "1") for index in range(4)])
            started = [next(items.startable(s.line.may_start)) for _ in range(2)]
            for attempt in started:
                items.succeeded(attempt.index, "1")
            assert [*items.startable(s.line.may_start)] == []

            assert items.take_finished(0).done == [(0, "1"), (1, "1")]

            assert [attempt.index for attempt in items.startable(s.line.may_start)] == [2, 3]

    turned(main)


@pytest.mark.parametrize("place", ["map.opened", "map.entered", "attempt.returned", "commit.after_reply"])
def test_map_whose_process_died_goes_on_with_the_items_that_have_no_record(place: str) -> None:
    made = agent(max_concurrent_tasks=2)

    @made.node(map_over="xs")
    async def waits(item):
        await asyncio.sleep(item)
        return item

    @made.node
    def total(waits):
        return sum(waits)

    with crash_at(place):
        TurnedClock().run(made.run_task(TASK, state={"xs": [1, 2, 3]}, run_id="r"))
    outcome = TurnedClock().run(made.resume("r"))

    assert (outcome["total"], outcome.run.deaths) == (6, 1)


def test_run_that_is_cancelled_stops_the_items_of_its_maps() -> None:
    made = agent()
    started: list[int] = []

    @made.node(map_over="xs")
    async def waits(item):
        started.append(item)
        await asyncio.sleep(1000)

    async def main(clock: TurnedClock) -> None:
        running = asyncio.create_task(made.run_task(TASK, state={"xs": [1, 2]}, run_id="r"))
        await clock.turn(5)

        assert await made.cancel("r", "enough") is RunStatus.CANCELLED

        assert (await running).error == "enough"
        assert clock.seconds < 5 + made.lease_seconds
        assert sorted(started) == [1, 2]

    turned(main)


def test_drained_run_is_given_back_and_goes_on_later() -> None:
    made = agent()
    ran_items: list[int] = []

    @made.node(map_over="xs", max_concurrency=1)
    async def waits(item):
        await asyncio.sleep(5)
        ran_items.append(item)
        return item

    async def main(clock: TurnedClock) -> None:
        running = asyncio.create_task(made.run_task(TASK, state={"xs": [1, 2, 3]}, run_id="r"))
        await clock.turn(7)
        made.drain(60)
        with pytest.raises(RunInterrupted):
            await running
        assert ran_items == [1, 2]
        assert clock.seconds == pytest.approx(10, abs=0.1)

        assert (await made.resume("r"))["waits"] == [1, 2, 3]
        assert ran_items == [1, 2, 3]

    turned(main)
