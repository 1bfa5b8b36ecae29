"""Progress of maps as every store gives it, while a run goes on and when it is over."""

from __future__ import annotations

import time
import uuid

import pytest

from graphflow import MapProgress
from graphflow.errors import CorruptState, RunNotFound
from graphflow.ids import RunId
from graphflow.inputs import Begin, ItemOutcomes, Started
from graphflow.run import Failure
from graphflow.store.contract import MapLook
from graphflow.store.keys import StoreKeys
from graphflow.store.redis_store import RedisStore
from tests.contract.driving import Driver, chain_plan, loop_plan, map_plan, raw, succeeded


def test_progress_follows_the_commits_of_a_map(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, map_plan())
        driver.now = 1000 * time.time() - 60_000
        assert await store.map_progress(driver.run.id) == {"double": MapProgress()}
        await driver.commit(Begin())
        await driver.open_map("double", [(index, "1") for index in range(4)])

        opened = (await store.map_progress(driver.run.id))["double"]
        await driver.commit(
            ItemOutcomes(0, 1, done=[(0, "2"), (3, "2")], failed=[(1, Failure("E", "x"), 2)], retried=1)
        )
        halfway = (await store.map_progress(driver.run.id))["double"]
        await driver.commit(ItemOutcomes(0, 1, done=[(2, "2")]))
        done = (await store.map_progress(driver.run.id))["double"]

        assert opened == MapProgress(total=4)
        assert (halfway.total, halfway.done, halfway.failed, halfway.retried) == (4, 2, 1, 1)
        assert halfway.fraction == 0.75
        assert halfway.eta_seconds is not None
        assert halfway.eta_seconds > 0
        assert done == MapProgress(total=4, done=3, failed=1, retried=1, eta_seconds=0.0)

    with_store(body)


def test_run_without_maps_has_no_progress_of_maps(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())

        assert await store.map_progress(driver.run.id) == {}

    with_store(body)


def test_progress_of_a_run_that_is_not_there_is_refused(with_store):
    async def body(store: RedisStore) -> None:
        with pytest.raises(RunNotFound):
            await store.map_progress(RunId(f"nowhere-{uuid.uuid4().hex[:8]}"))

    with_store(body)


def test_counter_that_is_no_number_is_named(any_redis_url, with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, map_plan())
        await driver.commit(Begin())
        await driver.open_map("double", [(0, "1")])
        key = StoreKeys().run(driver.run.id).map("double")
        client = await raw(any_redis_url)
        await client.hset(key, "done", "many")
        await client.aclose()

        with pytest.raises(CorruptState, match="map:double"):
            await store.map_progress(driver.run.id)

    with_store(body)


def test_results_of_a_visit_are_given_until_another_visit_has_its_records(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, loop_plan())
        run_id = driver.run.id
        before = await store.look_at_map(run_id, "items")
        await driver.commit(Begin())
        await to_items(driver)
        await driver.commit(ItemOutcomes(driver.plan.node("items").index, 1, done=[(2, "20")]))
        first, during = await store.visit_results(run_id, "items", 1, [0, 2]), await look(store, driver)
        await driver.commit(ItemOutcomes(driver.plan.node("items").index, 1, done=[(0, "0")]))
        after = await look(store, driver)

        assert before == MapLook(visit=0, is_active=False, run_is_over=False, recorded=0, span=0)
        assert not before.has_ended(1)
        assert first == [None, "20"]
        assert during == MapLook(visit=1, is_active=True, run_is_over=False, recorded=1, span=3)
        assert not during.has_ended(1)
        assert after == MapLook(visit=1, is_active=False, run_is_over=False, recorded=1, span=3)
        assert after.has_ended(1)
        assert not after.has_ended(2)
        assert await store.visit_results(run_id, "items", 2, [0, 2]) is None

    with_store(body)


async def to_items(driver: Driver) -> None:
    """Both modules of `plan`, then the items 0 and 2 of the map."""
    for place in range(2):
        await driver.commit(Started(0, place))
        await driver.commit(succeeded(driver, "plan", place))
    await driver.open_map("items", [(0, "0"), (2, "2")])


async def look(store: RedisStore, driver: Driver) -> MapLook:
    return await store.look_at_map(driver.run.id, "items")


def test_look_at_a_map_of_a_run_that_is_not_there_is_refused(with_store):
    async def body(store: RedisStore) -> None:
        with pytest.raises(RunNotFound):
            await store.look_at_map(RunId(f"nowhere-{uuid.uuid4().hex[:8]}"), "double")

    with_store(body)
