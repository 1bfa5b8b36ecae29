"""What every store promises to the engine: runs are created once, driven by one, and come back as they were committed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid

import pytest

from graphflow.errors import (
    CorruptState,
    LeaseHeld,
    LeaseLost,
    PlanMismatch,
    RunExists,
    RunNotFound,
    RunOver,
)
from graphflow.events import ItemFailed, ItemsFinished, RunStarted
from graphflow.graph import FlowControlConfig, FlowControlModule, FlowDecision, Node
from graphflow.graph.tasks import RunStatus
from graphflow.ids import RunId
from graphflow.inputs import Begin, ItemOutcomes, Started, StateSet, Stop
from graphflow.run import Failure
from graphflow.store import redis_store
from graphflow.store.keys import StoreKeys
from graphflow.store.redis_store import RedisStore
from tests.contract.driving import (
    Driver,
    assert_same,
    chain_plan,
    keys_of,
    map_plan,
    new_run,
    opened,
    plan_of,
    raw,
    succeeded,
    walk_through_a_run,
    work,
)
from tests.helpers import run as run_async


def test_created_run_loads_as_it_was_created(with_store):
    async def body(store: RedisStore) -> None:
        plan = chain_plan()
        run = new_run(plan, state={"numbers": "[1,2]", "größe": '"ä"'}, revisions={"numbers": 0, "größe": 0})

        await store.create(run, plan, agent="numbers", code="pkg.mod:agent")

        assert_same(await store.load(run.id, plan), run)

    with_store(body)


def test_run_id_is_created_once(with_store):
    async def body(store: RedisStore) -> None:
        plan = chain_plan()
        run = new_run(plan)
        await store.create(run, plan, agent="numbers", code="")

        with pytest.raises(RunExists):
            await store.create(run, plan, agent="numbers", code="")

    with_store(body)


def test_chain_runs_to_its_end(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())

        await driver.commit(Begin(), Started(0, 0))
        await driver.commit(succeeded(driver, "first", first='"a"'), Started(1, 0))
        await driver.commit(succeeded(driver, "second"))

        assert driver.run.status is RunStatus.COMPLETE
        assert_same(await driver.loaded(), driver.run)
        head = await store.head(driver.run.id)
        assert (head.status, head.progress, head.agent) == (
            RunStatus.COMPLETE,
            "2/2 nodes, 0 active",
            "numbers",
        )
        assert head.started
        assert head.finished > head.started
        assert (await store.state(driver.run.id)).get("first") == '"a"'

    with_store(body)


@pytest.mark.parametrize("seed", range(8))
def test_any_walk_through_a_run_loads_as_the_mirror(with_store, seed):
    async def body(store: RedisStore) -> None:
        await walk_through_a_run(store, seed)

    with_store(body)


def test_run_of_another_graph_does_not_load(with_store):
    async def body(store: RedisStore) -> None:
        run = new_run(chain_plan())
        await store.create(run, chain_plan(), agent="numbers", code="")

        with pytest.raises(PlanMismatch):
            await store.load(run.id, map_plan())

    with_store(body)


def test_run_that_is_not_there_is_not_found(with_store):
    async def body(store: RedisStore) -> None:
        missing = RunId(f"missing-{uuid.uuid4().hex}")
        for call in (
            lambda: store.head(missing),
            lambda: store.load(missing, chain_plan()),
            lambda: store.acquire(missing, 1),
            lambda: store.post(missing, "stop"),
        ):
            with pytest.raises(RunNotFound, match="missing-"):
                await call()
        assert await store.state(missing) == {}
        assert await store.events(missing) == []
        assert [pair async for page in store.result_pages(missing, "double") for pair in page] == []

    with_store(body)


# Leases


def test_run_that_is_driven_names_its_driver(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())

        with pytest.raises(LeaseHeld) as held:
            await store.acquire(driver.run.id, 10)

        assert held.value.owner == driver.held.lease.owner
        assert 0 < held.value.seconds_left <= 10
        assert (await store.head(driver.run.id)).owner == driver.held.lease.owner

    with_store(body)


def test_run_of_a_dead_process_of_this_host_is_taken_at_once(with_store, monkeypatch):
    script = "from graphflow.server.owner import current_owner; print(current_owner())"
    dead = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.strip()

    async def body(store: RedisStore) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(redis_store, "current_owner", lambda: dead)
            driver = await Driver.start(store, chain_plan())
        assert driver.held.lease.owner == dead

        again = await store.acquire(driver.run.id, 10)

        assert again.lease.token != driver.held.lease.token

    with_store(body)


def test_run_that_is_over_is_driven_by_nobody(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        await driver.commit(Stop(RunStatus.CANCELLED, "enough"))

        with pytest.raises(RunOver):
            await store.acquire(driver.run.id, 10)

    with_store(body)


def test_commit_after_another_took_the_run_is_lost(with_store, any_redis_url):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        await _expire_lease(any_redis_url, driver.run.id)
        async with opened(any_redis_url) as other:
            await other.acquire(driver.run.id, 10)

            with pytest.raises(LeaseLost):
                await driver.commit(Begin())

            assert (await other.head(driver.run.id)).status is RunStatus.WAITING

    with_store(body)


def test_released_run_is_free(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())

        await driver.held.release()
        await driver.held.release()

        assert (await store.head(driver.run.id)).owner == ""
        assert (await store.acquire(driver.run.id, 10)).lease.token != driver.held.lease.token

    with_store(body)


def test_renewer_tells_the_inbox_and_a_lost_lease(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        renewer = store.renewer()
        try:
            await store.post(driver.run.id, "stop")
            assert await asyncio.to_thread(renewer.renew, driver.held.lease) == 1

            await driver.held.release()

            assert await asyncio.to_thread(renewer.renew, driver.held.lease) is None
        finally:
            renewer.close()

    with_store(body)


async def _expire_lease(url: str, run_id: RunId) -> None:
    client = await raw(url)
    await client.hset(StoreKeys().run(run_id).lease, "deadline", 1)
    await client.aclose()


# Maps


def test_map_comes_back_item_by_item(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, map_plan())
        await driver.commit(Begin())
        items = [(index, f'"item {index}"') for index in range(1_300) if index % 7]
        await driver.open_map("double", items)
        done = [(index, f"[{index}]") for index, _ in items if index % 2]
        failures = [(index, Failure("ValueError", "odd"), 3) for index, _ in items[:40] if index % 2 == 0]

        await driver.commit(ItemOutcomes(0, 1, done=done[::-1], failed=failures, retried=5))

        run_id = driver.run.id
        assert await store.items(run_id, "double", [8, 1, 1_299]) == ['"item 8"', '"item 1"', '"item 1299"']
        assert [pair async for page in store.result_pages(run_id, "double") for pair in page] == done
        assert await store.failed_items(run_id, "double") == failures
        loaded = await driver.loaded()
        assert_same(loaded, driver.run)
        assert len(loaded.maps[0].unfinished) == len(items) - len(done) - len(failures)
        assert "double " in (await store.head(run_id)).progress

    with_store(body)


def test_item_that_is_missing_is_corrupt_state(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, map_plan())
        await driver.commit(Begin())
        await driver.open_map("double", [(0, "1")])

        with pytest.raises(CorruptState, match="item 5"):
            await store.items(driver.run.id, "double", [0, 5])

    with_store(body)


def test_new_visit_of_a_map_drops_the_records_before(with_store):
    async def body(store: RedisStore) -> None:
        again = FlowControlModule(
            flow_config=FlowControlConfig(decisions=[FlowDecision(next_node="double", condition="more")])
        )
        plan = plan_of(
            work("double", map_over="numbers"), Node(name="again", dependencies=["double"], modules=[again])
        )
        driver = await Driver.start(store, plan)
        await driver.commit(StateSet({"more": "true"}), Begin())
        await driver.open_map("double", [(0, "1"), (1, "2")])
        await driver.commit(ItemOutcomes(0, 1, done=[(0, "2")], failed=[(1, Failure("E", ""), 1)]))

        await driver.open_map("double", [(5, "9")])

        assert [pair async for page in store.result_pages(driver.run.id, "double") for pair in page] == []
        assert await store.failed_items(driver.run.id, "double") == []
        assert_same(await driver.loaded(), driver.run)

    with_store(body)


def test_results_of_a_map_that_a_condition_reads_are_loaded(with_store):
    async def body(store: RedisStore) -> None:
        plan = plan_of(
            work("double", map_over="numbers"), work("total", "double", condition="len(double) > 0")
        )
        driver = await Driver.start(store, plan)
        await driver.commit(Begin())
        await driver.open_map("double", [(0, "1"), (3, "2")])

        await driver.commit(ItemOutcomes(0, 1, done=[(3, "4"), (0, "2")], results="[2,4]"))

        assert driver.run.map_results == {0: "[2,4]"}
        assert_same(await driver.loaded(), driver.run)

    with_store(body)


# Events, requests, lists


def test_events_come_in_order_and_from_where_one_left_off(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, map_plan())
        await driver.commit(Begin())
        await driver.open_map("double", [(0, "1"), (1, "2"), (2, "3")])
        seen = await store.events(driver.run.id)

        await driver.commit(ItemOutcomes(0, 1, done=[(0, "2"), (1, "4")], failed=[(2, Failure("E", "x"), 1)]))

        new = [event for _, event in await store.events(driver.run.id, after=seen[-1][0])]
        assert isinstance(new[0], ItemsFinished)
        assert (new[0].indexes, new[0].token) == ("0-1", driver.held.lease.token)
        assert isinstance(new[1], ItemFailed)
        assert [event for _, event in await store.events(driver.run.id)] == [event for _, event in seen] + new

    with_store(body)


def test_waiting_for_events_ends_with_the_next_commit(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        waiting = asyncio.create_task(store.events(driver.run.id, block_ms=2_000))
        await asyncio.sleep(0)

        await driver.commit(Begin())

        assert [type(event) for _, event in await waiting] == [RunStarted]
        last = (await store.events(driver.run.id))[-1][0]
        assert await store.events(driver.run.id, after=last, block_ms=5) == []

    with_store(body)


def test_request_leaves_the_inbox_with_the_commit_that_answers_it(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        await store.post(driver.run.id, "one")
        await store.post(driver.run.id, "two")
        assert await driver.held.take_requests() == ["one", "two"]
        await store.post(driver.run.id, "three")
        assert await driver.held.take_requests() == ["three"]
        assert await driver.held.take_requests() == []
        await store.post(driver.run.id, "four")

        reply = await driver.commit(Begin())

        assert reply.inbox == 1
        assert await driver.held.take_requests() == ["four"]
        await driver.held.release()
        driver.held = await store.acquire(driver.run.id, 10)
        assert await driver.held.take_requests() == ["four"]

    with_store(body)


def test_run_that_is_over_takes_no_requests_and_keeps_no_lease(with_store, any_redis_url):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, plan_of(work("only")))
        await driver.commit(Begin(), Started(0, 0))
        await store.post(driver.run.id, "stop")
        await driver.held.take_requests()
        await driver.commit(succeeded(driver, "only", only="1"))
        await driver.held.release()

        assert not await store.post(driver.run.id, "stop")

        client = await raw(any_redis_url)
        start = f"gf:run:{{{driver.run.id}}}"
        expected = ["", ":events", ":node:only", ":nodes", ":plan", ":revisions", ":state", ":task"]
        assert await keys_of(client, driver.run.id) == [f"{start}{end}" for end in expected]
        assert await client.zscore("gf:runs:open", driver.run.id) is None
        assert await client.zscore("gf:runs", driver.run.id) is not None
        await client.aclose()

    with_store(body)


def test_recent_runs_come_latest_first_and_those_that_are_gone_not_at_all(any_redis_url):
    async def main() -> None:
        async with opened(any_redis_url, prefix=f"recent-{uuid.uuid4().hex}") as store:
            runs = [new_run(chain_plan()) for _ in range(4)]
            for run in runs:
                await store.create(run, chain_plan(), agent="numbers", code="")
                await asyncio.sleep(0.002)
            await store._redis.client.delete(store._keys.run(runs[2].id).run)

            assert [head.id for head in await store.recent(2)] == [runs[3].id, runs[1].id]
            assert [head.id for head in await store.recent(10)] == [runs[3].id, runs[1].id, runs[0].id]

    run_async(main())
