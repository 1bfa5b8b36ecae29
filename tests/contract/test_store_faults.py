"""A store that fails: lost replies, restarts, lost commits, full memory, keys that something else wrote."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from graphflow.errors import (
    CorruptState,
    RunNotFound,
    SchemaTooNew,
    StoreError,
    StoreFull,
    StoreUnreachable,
    StoreWentBack,
)
from graphflow.events import RunStarted
from graphflow.ids import RunId
from graphflow.inputs import Begin, ItemsStored, Started, StateSet
from graphflow.server.address import parse_address
from graphflow.store.keys import StoreKeys
from graphflow.store.redis_store import RedisStore
from graphflow.store.scripts import script
from tests.contract.driving import (
    Driver,
    assert_same,
    chain_plan,
    keys_of,
    map_plan,
    new_run,
    opened,
    raw,
    succeeded,
)
from tests.helpers import run as run_async
from tests.servers import RealServer

# Replies that are lost, servers that go away


@pytest.mark.parametrize("failures", [1, 3])
def test_every_write_whose_reply_is_lost_takes_effect_once(with_store, monkeypatch, failures):
    async def body(store: RedisStore) -> None:
        real = store._redis.client.execute_command
        scripts = [script(name) for name in ("create", "acquire", "post", "commit", "release")]
        names = {form: each.name for each in scripts for form in (each.sha, each.text)}
        lost = dict.fromkeys(names.values(), 0)

        async def execute(*command, **options):
            """The first calls of each script reach the server, but their reply does not come back."""
            reply = await real(*command, **options)
            if command[0] in ("EVALSHA", "EVAL"):
                name = names[command[1]]
                lost[name] += 1
                if lost[name] <= failures:
                    raise RedisConnectionError("connection lost")
            return reply

        monkeypatch.setattr(store._redis.client, "execute_command", execute)
        driver = await Driver.start(store, chain_plan())
        assert await store.post(driver.run.id, "stop")
        reply = await driver.commit(Begin())

        assert reply.inbox == 1
        assert await driver.held.take_requests() == ["stop"]
        assert [type(event) for _, event in await store.events(driver.run.id)] == [RunStarted]
        assert_same(await driver.loaded(), driver.run)
        await driver.held.release()
        assert (await store.head(driver.run.id)).owner == ""
        assert all(count > failures for count in lost.values())

    with_store(body)


def test_commit_waits_for_a_server_that_comes_back():
    async def main(server: RealServer) -> None:
        async with opened(server.url) as store:
            driver = await Driver.start(store, chain_plan())
            server.kill()
            committing = asyncio.create_task(driver.commit(Begin(), Started(0, 0)))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(server.restart)
            await committing

            assert_same(await driver.loaded(), driver.run)

    with RealServer("current", appendfsync="always") as server:
        run_async(main(server))


def test_store_that_stays_away_is_unreachable_when_patience_ends():
    async def main(server: RealServer) -> None:
        async with opened(server.url, patience_seconds=0.2) as store:
            driver = await Driver.start(store, chain_plan())
            server.kill()
            with pytest.raises(StoreUnreachable):
                await driver.commit(Begin())

    with RealServer("current") as server:
        run_async(main(server))


def test_store_that_lost_a_commit_went_back(with_store, any_redis_url):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        await driver.commit(Begin(), Started(0, 0))
        client = await raw(any_redis_url)
        await client.hset(StoreKeys().run(driver.run.id).run, "revision", 0)
        await client.aclose()

        with pytest.raises(StoreWentBack) as error:
            await driver.commit(succeeded(driver, "first"))

        assert (error.value.expected, error.value.found) == (1, 0)

    with_store(body)


def test_commit_to_a_run_that_is_gone_leaves_nothing_behind(with_store, any_redis_url):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        client = await raw(any_redis_url)
        await client.delete(*await keys_of(client, driver.run.id))

        with pytest.raises(RunNotFound):
            await driver.commit(Begin())

        assert await keys_of(client, driver.run.id) == []
        await client.aclose()

    with_store(body)


def test_full_memory_stops_the_start_of_a_map_but_not_what_is_under_way():
    async def main(server: RealServer) -> None:
        async with opened(server.url, patience_seconds=0.2) as store:
            driver = await Driver.start(store, map_plan())
            await driver.commit(Begin(), Started(0, 0))
            client = await raw(server.url)
            await client.config_set("maxmemory", 1)
            renewer = store.renewer()
            try:
                await driver.commit(StateSet({"x": "1"}))
                assert await asyncio.to_thread(renewer.renew, driver.held.lease) == 0
                stored = await driver.loaded()
                with pytest.raises(StoreFull):
                    await driver.commit(ItemsStored(0, 1, [(0, "1")]))
                with pytest.raises(StoreFull):
                    await store.create(new_run(driver.plan), driver.plan, agent="", code="")
                assert_same(await driver.loaded(), stored)
                await driver.held.release()
            finally:
                renewer.close()
                await client.aclose()

    with RealServer("current", options={"maxmemory-policy": "noeviction"}) as server:
        run_async(main(server))


# Stores and keys that cannot be read


def test_store_of_a_newer_schema_is_refused(any_redis_url):
    async def main() -> None:
        prefix = f"newer-{uuid.uuid4().hex}"
        client = await raw(any_redis_url)
        await client.hset(f"{prefix}:meta", "schema", 99)
        await client.aclose()

        with pytest.raises(SchemaTooNew):
            await RedisStore(parse_address(any_redis_url), prefix=prefix).open()

    run_async(main())


def test_store_that_is_not_open_says_so(any_redis_url):
    with pytest.raises(StoreError, match="not open"):
        run_async(RedisStore(parse_address(any_redis_url)).head(RunId("x")))


@pytest.mark.parametrize(
    ("name", "field", "text"),
    [
        ("run", "revision", "many"),
        ("run", "status", "lost"),
        ("task", "params", "{"),
        ("run", "held", "["),
        ("nodes", "first", "sleeping"),
        ("revisions", "x", "?"),
        ("node:first", "visits", "x"),
        ("node:first", "error", "{}"),
        ("node:first", "chosen", "nobody"),
        ("node:first", "started", "yesterday"),
    ],
)
def test_text_that_cannot_be_read_is_named(redis_url, name, field, text):
    async def main() -> None:
        async with opened(redis_url) as store:
            driver = await Driver.start(store, chain_plan())
            start = StoreKeys().run(driver.run.id).run
            key = start if name == "run" else f"{start}:{name}"
            await store._redis.client.hset(key, field, text)

            with pytest.raises(CorruptState) as error:
                await driver.loaded()

            assert error.value.key == key

    run_async(main())


@pytest.mark.parametrize("name", ["state", "nodes", "node:first"])
def test_key_of_a_wrong_type_is_named(with_store, any_redis_url, name):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        key = f"{StoreKeys().run(driver.run.id).run}:{name}"
        client = await raw(any_redis_url)
        await client.delete(key)
        await client.set(key, "something else")
        await client.aclose()

        with pytest.raises(CorruptState) as on_load:
            await driver.loaded()
        with pytest.raises(CorruptState) as on_commit:
            await driver.commit(StateSet({"x": "1"}), Begin())

        assert on_load.value.key == on_commit.value.key == key

    with_store(body)


def test_task_of_unknown_types_is_plain_data_at_a_look(redis_url):
    async def main() -> None:
        async with opened(redis_url) as store:
            run = new_run(chain_plan())
            await store.create(run, chain_plan(), agent="numbers", code="")
            key = StoreKeys().run(run.id).task
            await store._redis.client.hset(key, "params", '{"report":{"$type":"Elsewhere","title":"Tides"}}')

            assert (await store.head(run.id)).task.params == {"report": {"title": "Tides"}}

    run_async(main())
