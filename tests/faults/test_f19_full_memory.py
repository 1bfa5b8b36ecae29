"""F19: Redis has no memory left while a run goes on. What runs is still stored, nothing new is started, no map is opened
by halves, and the run is not lost; it goes on when there is room, or says StoreFull."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from graphflow import Agent, RedisCache, Task
from graphflow.errors import StoreFull
from graphflow.store.redis_store import RedisStore
from tests.contract.driving import raw
from tests.helpers import run as run_async
from tests.servers import ENGINES, Engine, RealServer

TASK = Task(type="numbers", objective="double them")
LEASE_SECONDS = 0.9
ITEMS = 60


class ImpatientCache(RedisCache):
    """A store that waits a short time only."""

    def store(self) -> RedisStore:
        return RedisStore(self.address, patience_seconds=1.0)


class Doubling:
    """A map of which as many items are let through as the test says, and another map after it."""

    def __init__(self, cache: RedisCache) -> None:
        self.began: Counter[int] = Counter()
        self.gate = asyncio.Semaphore(0)
        self.agent = Agent(cache=cache, name="f19", max_concurrent_tasks=10, lease_seconds=LEASE_SECONDS)
        self.agent.node(self.numbers)
        self.agent.node(map_over="numbers")(self.double)
        self.agent.node(map_over="double")(self.again)
        self.agent.node(self.total)

    def numbers(self) -> list[int]:
        return list(range(ITEMS))

    async def double(self, number: int) -> int:
        self.began[number] += 1
        await self.gate.acquire()
        return number * 2

    async def again(self, double: int) -> int:
        return double

    def total(self, again: list[int]) -> int:
        return sum(again)

    def let_through(self, items: int) -> None:
        for _ in range(items):
            self.gate.release()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not await _value(condition()):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)


async def _value(value):
    return await value if asyncio.iscoroutine(value) else value


@asynccontextmanager
async def looking_at(server: RealServer) -> AsyncIterator:
    client = await raw(server.url)
    try:
        yield client
    finally:
        await client.aclose()


DONE = """return {redis.call('HGET', KEYS[1], 'done') or '0', redis.call('HLEN', KEYS[1] .. ':out')}"""


async def done(client, run_id: str) -> int:
    """Items with a record, and that the map's counter says the same at every moment."""
    told, records = await client.eval(DONE, 1, f"gf:run:{{{run_id}}}:map:double")
    assert int(told) == records, "a commit was stored by halves"
    return records


async def deadline(client, run_id: str) -> int:
    return int(await client.hget(f"gf:run:{{{run_id}}}:lease", "deadline") or 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_full_memory_in_the_middle_of_a_map_holds_the_run_until_there_is_room(engine: Engine) -> None:
    async def main(server: RealServer) -> None:
        doubling = Doubling(RedisCache(server.url))
        async with looking_at(server) as client:
            running = asyncio.create_task(doubling.agent.run_task(TASK, run_id="full"))
            doubling.let_through(15)
            await until(lambda: _is(15, done(client, "full")))
            await client.config_set("maxmemory", 1)

            # The first commit tells of it; what runs by then still ends and is stored.
            doubling.let_through(5)
            await until(lambda: _is(20, done(client, "full")))
            doubling.let_through(ITEMS)
            began: list[int] = []
            for _ in range(3):
                before = await deadline(client, "full")
                await until(lambda before=before: _is_more(before, deadline(client, "full")))
                began.append(len(doubling.began))
            assert began[1] == began[2] < ITEMS, "nothing new starts while memory is full"
            assert await done(client, "full") == began[2], "what was under way is stored"
            assert not running.done()
            assert not await client.exists("gf:run:{full}:map:again:in")

            await client.config_set("maxmemory", 0)
            outcome = await running

        assert outcome["total"] == sum(range(ITEMS)) * 2
        assert set(doubling.began.values()) == {1}
        assert not outcome.failures

    with RealServer(engine) as server:
        run_async(main(server))


async def _is(wanted: int, found) -> bool:
    return await found == wanted


async def _is_more(than: int, found) -> bool:
    return await found > than


def test_map_is_opened_whole_or_not_at_all_and_the_lease_is_kept_meanwhile() -> None:
    async def main(server: RealServer) -> None:
        doubling = Doubling(RedisCache(server.url))
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def numbers() -> list[int]:
            reached.set()
            await go_on.wait()
            return list(range(ITEMS))

        doubling.agent.nodes["numbers"].modules[0].function = numbers
        doubling.let_through(ITEMS)
        async with looking_at(server) as client:
            running = asyncio.create_task(doubling.agent.run_task(TASK, run_id="unopened"))
            await reached.wait()
            await client.config_set("maxmemory", 1)
            go_on.set()
            for _ in range(4):
                before = await deadline(client, "unopened")
                await until(lambda before=before: _is_more(before, deadline(client, "unopened")))
                assert not await client.exists("gf:run:{unopened}:map:double:in")

            await client.config_set("maxmemory", 0)
            outcome = await running

        assert outcome["total"] == sum(range(ITEMS)) * 2
        assert set(doubling.began.values()) == {1}

    with RealServer("current") as server:
        run_async(main(server))


def test_memory_that_stays_full_is_store_full_and_the_run_goes_on_later() -> None:
    async def main(server: RealServer) -> None:
        doubling = Doubling(ImpatientCache(server.url))
        async with looking_at(server) as client:
            running = asyncio.create_task(doubling.agent.run_task(TASK, run_id="stays"))
            doubling.let_through(15)
            await until(lambda: _is(15, done(client, "stays")))
            await client.config_set("maxmemory", 1)
            doubling.let_through(ITEMS)
            with pytest.raises(StoreFull, match="out of memory"):
                await running
            assert await client.hget("gf:run:{stays}", "status") == "executing"
            assert not await client.exists("gf:run:{stays}:lease"), "the run was given back"
            stored = await done(client, "stays")

            await client.config_set("maxmemory", 0)
            outcome = await doubling.agent.resume("stays")

        assert outcome["total"] == sum(range(ITEMS)) * 2
        assert outcome.node_results["double"].attempts == 1
        assert doubling.began.total() == ITEMS, f"{stored} were stored; none runs twice"

    with RealServer("current") as server:
        run_async(main(server))


def test_run_can_be_deleted_when_memory_is_full() -> None:
    async def main(server: RealServer) -> None:
        doubling = Doubling(ImpatientCache(server.url))
        doubling.let_through(ITEMS)
        await doubling.agent.run_task(TASK, run_id="over")
        async with looking_at(server) as client:
            await client.config_set("maxmemory", 1)
            await doubling.agent.delete("over")
            assert [key async for key in client.scan_iter("gf:run:*")] == []

    with RealServer("current") as server:
        run_async(main(server))
