"""The store of `graphflow.testing` keeps a run as the others do."""

from __future__ import annotations

import asyncio

import pytest

from graphflow.errors import (
    LeaseHeld,
    LeaseLost,
    PlanMismatch,
    RunExists,
    RunNotFound,
    RunOver,
    StoreWentBack,
)
from graphflow.graph.tasks import RunStatus
from graphflow.ids import RunId
from graphflow.inputs import Begin, ItemOutcomes, Started, StateSet, Stop
from graphflow.run import Failure
from graphflow.testing.store import MemoryStore
from tests.contract.driving import (
    Driver,
    chain_plan,
    map_plan,
    new_run,
    succeeded,
    walk_through_a_run,
)


@pytest.mark.parametrize("seed", range(8))
def test_any_walk_through_a_run_loads_as_the_mirror(seed: int) -> None:
    async def main() -> None:
        await walk_through_a_run(MemoryStore(), seed)

    asyncio.run(main())


def test_what_was_loaded_can_be_changed_without_the_stored_run() -> None:
    async def main() -> None:
        driver = await Driver.start(MemoryStore(), chain_plan())
        await driver.commit(Begin(), Started(0, 0))

        driver.run.state["first"] = "1"
        driver.run.nodes[0].visits = 7

        stored = await driver.loaded()
        assert stored.state == {}
        assert stored.nodes[0].visits == 1

    asyncio.run(main())


def test_records_of_a_map_come_back_and_those_of_the_visit_before_are_gone() -> None:
    async def main() -> None:
        store = MemoryStore()
        driver = await Driver.start(store, map_plan())
        await driver.commit(StateSet({"numbers": "[]"}), Begin())
        await driver.open_map("double", [(0, "1"), (1, "2"), (2, "3")])
        failure = Failure("ValueError", "no")
        await driver.commit(ItemOutcomes(0, 1, [(2, "6"), (0, "2")], [(1, failure, 3)], retried=2))

        assert await store.items(driver.run.id, "double", [2, 0]) == ["3", "1"]
        assert [page async for page in store.result_pages(driver.run.id, "double")] == [[(0, "2"), (2, "6")]]
        assert await store.failed_items(driver.run.id, "double") == [(1, failure, 3)]
        progress = (await store.map_progress(driver.run.id))["double"]
        assert (progress.total, progress.done, progress.failed, progress.retried) == (3, 2, 1, 2)
        assert await store.visit_results(driver.run.id, "double", 1, [0, 1]) == ["2", None]
        assert await store.visit_results(driver.run.id, "double", 2, [0]) is None

    asyncio.run(main())


def test_run_has_one_driver_and_one_id() -> None:
    async def main() -> None:
        store, plan = MemoryStore(), chain_plan()
        driver = await Driver.start(store, plan)

        with pytest.raises(RunExists):
            await store.create(driver.run, plan, agent="", code="")
        with pytest.raises(LeaseHeld):
            await store.acquire(driver.run.id, 10)
        with pytest.raises(LeaseHeld):
            await store.delete(driver.run.id)
        with pytest.raises(PlanMismatch):
            await store.load(driver.run.id, map_plan())
        with pytest.raises(RunNotFound):
            await store.head(RunId("another"))

        await driver.held.release()
        again = await store.acquire(driver.run.id, 10)
        assert again.lease.token != driver.held.lease.token
        assert (await store.load(driver.run.id, plan)).deaths == 0

    asyncio.run(main())


def test_lease_that_was_not_renewed_is_taken_and_counts_as_a_death() -> None:
    async def main() -> None:
        store, plan = MemoryStore(), chain_plan()
        run = new_run(plan)
        await store.create(run, plan, agent="", code="")
        held = await store.acquire(run.id, 0)

        other = await store.acquire(run.id, 10)

        assert (await store.load(run.id, plan)).deaths == 1
        assert store.renewer().renew(held.lease) is None
        assert store.renewer().renew(other.lease) == 0
        with pytest.raises(LeaseLost):
            await held.commit(held.batch(plan), expected=0, revision=1)

    asyncio.run(main())


def test_commit_upon_another_revision_stores_nothing() -> None:
    async def main() -> None:
        driver = await Driver.start(MemoryStore(), chain_plan())
        batch = driver.held.batch(driver.plan)

        with pytest.raises(StoreWentBack):
            await driver.held.commit(batch, expected=3, revision=4)

        assert (await driver.loaded()).revision == 0

    asyncio.run(main())


def test_request_leaves_the_inbox_with_the_commit_that_answers_it() -> None:
    async def main() -> None:
        driver = await Driver.start(MemoryStore(), chain_plan())
        store, run_id = driver.store, driver.run.id
        assert await store.post(run_id, "one")

        assert await driver.held.take_requests() == ["one"]
        assert await driver.held.take_requests() == []
        assert await store.post(run_id, "two")
        assert await store.waiting_requests(run_id) == 2
        reply = await driver.commit(Begin())

        assert reply.inbox == 1
        assert await driver.held.take_requests() == ["two"]

    asyncio.run(main())


def test_run_that_is_over_is_driven_by_nobody_and_takes_no_requests() -> None:
    async def main() -> None:
        driver = await Driver.start(MemoryStore(), chain_plan())
        await driver.commit(Begin(), Stop(RunStatus.CANCELLED, "enough"))

        assert not await driver.store.post(driver.run.id, "one")
        assert await driver.store.open_runs() == []
        with pytest.raises(RunOver):
            await driver.store.acquire(driver.run.id, 10)
        head = await driver.store.head(driver.run.id)
        assert (head.status, head.owner, head.error) == (RunStatus.CANCELLED, "", "enough")

    asyncio.run(main())


def test_events_come_in_order_and_from_where_one_left_off() -> None:
    async def main() -> None:
        driver = await Driver.start(MemoryStore(), chain_plan())
        await driver.commit(Begin(), Started(0, 0))
        await driver.commit(succeeded(driver, "first"))

        everything = await driver.store.events(driver.run.id)
        rest = await driver.store.events(driver.run.id, after=everything[0][0])

        assert [event.kind for _, event in everything] == ["RunStarted", "NodeStarted", "NodeSucceeded"]
        assert rest == everything[1:]
        assert await driver.store.events(driver.run.id, everything[-1][0], block_ms=1) == []

    asyncio.run(main())
