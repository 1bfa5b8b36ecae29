"""How long runs are kept: nothing of a running run ever ends, everything of a finished one does, and what a crash leaves
half done is finished by a sweep."""

from __future__ import annotations

import asyncio
import time

import pytest

from graphflow.errors import CorruptState, LeaseHeld, RunNotFound
from graphflow.graph.tasks import RunStatus
from graphflow.ids import RunId
from graphflow.inputs import Begin, ItemOutcomes, Started, Stop
from graphflow.settings import KEEP_COMPLETE_SECONDS, KEEP_OTHER_SECONDS
from graphflow.store import retention
from graphflow.store.contract import DEFAULT_RETENTION, Retention
from graphflow.store.redis_store import RedisStore
from tests.contract.driving import (
    Driver,
    chain_plan,
    keys_of,
    map_plan,
    new_run,
    opened,
    raw,
    succeeded,
)
from tests.helpers import run as run_async


@pytest.fixture
def with_client(any_redis_url):
    """Run a body with an open store and a plain client of it."""

    def run(body) -> None:
        async def main() -> None:
            client = await raw(any_redis_url)
            try:
                async with opened(any_redis_url) as store:
                    await body(store, client)
            finally:
                await client.aclose()

        run_async(main())

    return run


async def started(store: RedisStore, plan, kept: Retention = DEFAULT_RETENTION, run_id: str = "") -> Driver:
    run = new_run(plan, state={"numbers": "[1,2]"})
    run.id = RunId(run_id) if run_id else run.id
    await store.create(run, plan, agent="numbers", code="pkg.mod:agent", kept=kept)
    held = await store.acquire(run.id, 10)
    driver = Driver(store, plan, await held.load(plan), held)
    await driver.commit(Begin())
    return driver


async def complete(driver: Driver) -> None:
    for name in ("first", "second"):
        await driver.commit(Started(driver.plan.node(name).index, 0))
        await driver.commit(succeeded(driver, name, numbers="[3]"))
    assert driver.run.status is RunStatus.COMPLETE


async def fill_map(driver: Driver, items: int) -> None:
    await driver.open_map("double", [(index, str(index)) for index in range(items)])
    node = driver.plan.node("double").index
    visit = driver.run.nodes[node].visits
    await driver.commit(ItemOutcomes(node, visit, done=[(index, str(index)) for index in range(items - 1)]))


async def ends(client, run_id: RunId) -> dict[str, int]:
    """Milliseconds that each key has left; -1 for those without an end."""
    return {key: await client.pttl(key) for key in await keys_of(client, run_id)}


async def hash_of(client, run_id: RunId) -> dict[str, str]:
    return await client.hgetall(f"gf:run:{{{run_id}}}")


async def until_gone(client, run_id: RunId) -> None:
    async with asyncio.timeout(10):
        while await keys_of(client, run_id):  # noqa: ASYNC110 - a key that ends tells nobody
            await asyncio.sleep(0.01)


# Expiry


def test_every_key_of_a_complete_run_ends_at_the_same_moment_in_seven_days(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan())
        await complete(driver)
        await store.expire(driver.run.id, driver.plan)

        left = await ends(client, driver.run.id)
        assert len(left) >= 6
        assert max(left.values()) <= KEEP_COMPLETE_SECONDS * 1000
        assert min(left.values()) > KEEP_COMPLETE_SECONDS * 1000 - 10_000
        assert max(left.values()) - min(left.values()) < 1000
        seconds, micros = await client.time()
        expires = int((await hash_of(client, driver.run.id))["expires"])
        assert expires - (seconds * 1000 + micros // 1000) <= KEEP_COMPLETE_SECONDS * 1000

    with_client(body)


def test_run_that_did_not_complete_is_kept_for_thirty_days_with_all_records_of_its_map(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, map_plan())
        await fill_map(driver, 5)
        await driver.commit(Stop(RunStatus.CANCELLED, "enough"))
        await store.expire(driver.run.id, driver.plan)

        left = await ends(client, driver.run.id)
        assert f"gf:run:{{{driver.run.id}}}:map:double:out" in left
        assert min(left.values()) > KEEP_OTHER_SECONDS * 1000 - 10_000

    with_client(body)


def test_run_says_for_how_long_it_is_kept(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan(), Retention(100, 200.5))
        fields = await hash_of(client, driver.run.id)
        assert (fields["keep_complete"], fields["keep_other"]) == ("100", "200.5")
        await driver.commit(Stop(RunStatus.CANCELLED, "enough"))
        await store.expire(driver.run.id, driver.plan)

        assert 195_000 < min((await ends(client, driver.run.id)).values()) <= 200_500

    with_client(body)


def test_run_kept_for_ever_never_ends_and_no_sweep_ends_it(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan(), Retention(0, 0))
        await complete(driver)
        await store.expire(driver.run.id, driver.plan)
        swept = await store.upkeep().sweep()

        assert set((await ends(client, driver.run.id)).values()) == {-1}
        assert driver.run.id not in swept.expired
        assert "expires" not in await hash_of(client, driver.run.id)

    with_client(body)


def test_run_that_is_not_over_never_has_an_end(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan(), Retention(1, 1))
        await store.expire(driver.run.id, driver.plan)
        swept = await store.upkeep().sweep()

        assert set((await ends(client, driver.run.id)).values()) == {-1}
        assert driver.run.id not in swept.expired
        await complete(driver)

    with_client(body)


def test_run_is_gone_when_its_time_has_come_and_its_id_is_free_again(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan(), Retention(0.05, 0.05))
        await complete(driver)
        await store.expire(driver.run.id, driver.plan)
        await until_gone(client, driver.run.id)
        with pytest.raises(RunNotFound):
            await store.head(driver.run.id)
        was_created = await client.zscore("gf:runs", driver.run.id)

        again = await started(store, chain_plan(), run_id=driver.run.id)

        assert again.run.state == {"numbers": "[1,2]"}
        assert set((await ends(client, driver.run.id)).values()) == {-1}
        assert await client.zscore("gf:runs", driver.run.id) > was_created
        assert driver.run.id in [head.id for head in await store.recent(3)]

    with_client(body)


def test_expiry_that_was_interrupted_is_finished_by_a_sweep_with_the_same_end(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan(), Retention(500, 500))
        await complete(driver)
        run = f"gf:run:{{{driver.run.id}}}"
        # What a process has done that died after its first batch.
        await retention.expire_keys(store._redis, run, [f"{run}:plan"], last=False)
        first = (await hash_of(client, driver.run.id))["expires"]
        left = await ends(client, driver.run.id)
        assert left[run] == left[f"{run}:state"] == -1
        assert left[f"{run}:plan"] > 0

        swept = await store.upkeep().sweep()

        assert driver.run.id in swept.expired
        assert min((await ends(client, driver.run.id)).values()) > 490_000
        assert (await hash_of(client, driver.run.id))["expires"] == first
        assert driver.run.id not in (await store.upkeep().sweep()).expired

    with_client(body)


def test_dry_sweep_says_the_same_and_changes_nothing(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan())
        await complete(driver)
        run_id = driver.run.id
        await client.zadd("gf:runs:open", {run_id: 1})
        await client.zadd("gf:runs", {f"gone-{run_id}": 1})

        looked = await store.upkeep().sweep(dry_run=True)

        assert run_id in looked.expired
        assert run_id in looked.closed
        assert f"gone-{run_id}" in looked.forgotten
        assert set((await ends(client, run_id)).values()) == {-1}
        assert await client.zscore("gf:runs:open", run_id) is not None
        assert await client.zscore("gf:runs", f"gone-{run_id}") is not None
        swept = await store.upkeep().sweep()
        assert looked == swept
        assert await client.zscore("gf:runs:open", run_id) is None
        assert await client.zscore("gf:runs", f"gone-{run_id}") is None
        assert await client.zscore("gf:runs", run_id) is not None

    with_client(body)


def test_index_entry_of_a_run_about_to_be_created_is_left_alone(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        run_id = RunId("about-to-come")
        await store._index(run_id, time.time() * 1000)

        swept = await store.upkeep().sweep()
        later = await store.upkeep(grace_seconds=-1).sweep()

        assert run_id not in swept.forgotten | swept.closed
        assert run_id in later.forgotten & later.closed

    with_client(body)


def test_keys_that_a_run_left_behind_are_swept(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan())
        await client.delete(f"gf:run:{{{driver.run.id}}}")

        swept = await store.upkeep().sweep()

        assert driver.run.id in swept.remains
        assert await keys_of(client, driver.run.id) == []

    with_client(body)


def test_thousands_of_keys_of_one_run_end_in_batches(with_client, monkeypatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)

    async def body(store: RedisStore, client) -> None:
        driver = await started(store, map_plan())
        await fill_map(driver, 4)
        await driver.commit(Stop(RunStatus.FAILED, "enough"))
        await store.expire(driver.run.id, driver.plan)

        assert min((await ends(client, driver.run.id)).values()) > 0

    with_client(body)


# Removal


def test_deleted_run_leaves_nothing(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        other = await started(store, chain_plan())
        driver = await started(store, map_plan())
        await fill_map(driver, 5)
        await driver.held.release()
        await client.set(f"gf:run:{{{driver.run.id}}}:mailbox:anything", "1")
        before = await keys_of(client, other.run.id)

        await store.delete(driver.run.id)

        assert await keys_of(client, driver.run.id) == []
        for index in ("gf:runs", "gf:runs:open"):
            assert await client.zscore(index, driver.run.id) is None
        with pytest.raises(RunNotFound):
            await store.delete(driver.run.id)
        assert await keys_of(client, other.run.id) == before
        await complete(other)

    with_client(body)


def test_run_that_is_driven_is_not_deleted(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan())

        with pytest.raises(LeaseHeld):
            await store.delete(driver.run.id)

        await complete(driver)

    with_client(body)


def test_run_whose_holder_is_gone_is_deleted_and_a_late_commit_of_that_holder_is_refused(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan())
        lease = f"gf:run:{{{driver.run.id}}}:lease"
        await client.hset(lease, "deadline", 1)

        await store.delete(driver.run.id)

        with pytest.raises(RunNotFound):
            await driver.commit(Started(0, 0))
        assert await keys_of(client, driver.run.id) == []

    with_client(body)


def test_deletion_that_was_interrupted_is_finished_by_a_sweep_or_another_deletion(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        for finish in ("sweep", "delete"):
            driver = await started(store, map_plan())
            await fill_map(driver, 5)
            await driver.held.release()
            # What a process has done that died after its first batch.
            run = store._keys.run(driver.run.id)
            assert await retention._end(store._redis, run, driver.run.id)
            await retention.expire_keys(store._redis, run.run, [run.state, run.plan], last=False)
            head = await store.head(driver.run.id)
            assert (head.status, head.error) == (RunStatus.CANCELLED, retention.DELETED)
            assert not await store.post(driver.run.id, "{}"), "it is over"

            if finish == "delete":
                await store.delete(driver.run.id)
            else:
                assert driver.run.id in (await store.upkeep().sweep()).expired

            assert await keys_of(client, driver.run.id) == []

    with_client(body)


def test_run_whose_hash_was_overwritten_can_be_deleted(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan())
        await driver.held.release()
        await client.set(f"gf:run:{{{driver.run.id}}}", "nonsense")
        with pytest.raises(CorruptState):
            await store.head(driver.run.id)

        await store.delete(driver.run.id)

        assert await keys_of(client, driver.run.id) == []

    with_client(body)


# Indexes


def test_indexes_are_rebuilt_from_the_runs(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        over = await started(store, chain_plan())
        await complete(over)
        under_way = await started(store, chain_plan())
        created = await client.zscore("gf:runs", over.run.id)
        await client.delete("gf:runs", "gf:runs:open")
        await client.zadd("gf:runs:open", {over.run.id: 5, "nobody": 5})

        changed = await store.upkeep().rebuild_indexes()

        assert changed >= 5
        assert await client.zscore("gf:runs", over.run.id) == created
        assert await client.zscore("gf:runs", under_way.run.id) is not None
        assert await client.zscore("gf:runs:open", under_way.run.id) is not None
        assert await client.zscore("gf:runs:open", over.run.id) is None
        assert await client.zscore("gf:runs:open", "nobody") is None

    with_client(body)


def test_run_in_quarantine_is_in_no_index_of_open_runs_until_it_is_looked_after(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        driver = await started(store, chain_plan())
        await driver.held.release()
        run_id = driver.run.id

        await store.quarantine(run_id, CorruptState("a key", "it is torn"))

        assert await client.zscore("gf:runs:open", run_id) is None
        assert "it is torn" in (await hash_of(client, run_id))["quarantined"]
        await store.upkeep().rebuild_indexes()
        assert await client.zscore("gf:runs:open", run_id) is not None
        await store.acquire(run_id, 10)
        assert "quarantined" not in await hash_of(client, run_id)

    with_client(body)


def test_quarantine_makes_no_run(with_client) -> None:
    async def body(store: RedisStore, client) -> None:
        await store.quarantine(RunId("no-such-run"), CorruptState("a key", "it is torn"))

        assert await keys_of(client, RunId("no-such-run")) == []

    with_client(body)
