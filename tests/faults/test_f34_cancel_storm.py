"""F34: every public coroutine is cut short, again and again, at any moment, on a slow network. No reply goes to the wrong
caller, no connection stays, no item is lost or done twice for it."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from graphflow import Agent, RedisCache
from graphflow.errors import LeaseHeld, RunComplete, RunNotFound, RunOver, SnapshotNotFound
from graphflow.ids import RunId
from graphflow.server.address import parse_address
from graphflow.store.redis_store import RedisStore
from tests.acceptance.support import task
from tests.faults.harness import looking_at
from tests.faults.invariants import check_over
from tests.faults.proxy import ChaosProxy
from tests.helpers import run, wait_until
from tests.servers import RealServer

ITEMS = 20
#: Seconds after which a call is cut short, at most: about what a run of the map takes here.
PATIENCE = 0.25
#: What a call may rightly say of a run that others drive, end or delete at the same time.
RIGHT_ERRORS = (LeaseHeld, RunComplete, RunNotFound, RunOver, SnapshotNotFound)


def agent_on(url: str, began: Counter[int]) -> Agent:
    agent = Agent(cache=RedisCache(url), name="f34", auto_snapshot=True, lease_seconds=0.5)

    @agent.node
    async def numbers(cache) -> list[int]:
        await cache.step("asked", abs, -1)
        return list(range(ITEMS))

    @agent.node(map_over="numbers", max_concurrency=5)
    async def double(number: int) -> int:
        began[number] += 1
        await asyncio.sleep(0.002)
        return number * 2

    @agent.node
    async def total(double: list[int]) -> int:
        return sum(double)

    return agent


def calls_of(agent: Agent, store: RedisStore, name: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """Every public coroutine that asks the store something, with a check of what it answers."""
    run_id = RunId(name)

    async def run_task() -> None:
        assert (await agent.run_task(task(), run_id=name))["total"] == ITEMS * (ITEMS - 1)

    async def resume() -> None:
        assert (await agent.resume(name)).run_id == name

    async def stream() -> None:
        async for event in agent.stream(task(), run_id=name):
            assert event.revision >= 0

    async def fork() -> None:
        assert (await agent.fork(name, 1, run_id=f"{name}-fork"))["total"] == ITEMS * (ITEMS - 1)

    async def state() -> None:
        assert set(await agent.state(name)) <= {"numbers", "double", "total"}

    async def snapshots() -> None:
        assert all(snapshot.number > 0 for snapshot in await agent.snapshots(name))

    async def recover() -> None:
        assert all(outcome.status == "complete" for outcome in await agent.recover())

    async def signal() -> None:
        await agent.signal(name, "nobody waits", 1)

    async def message() -> None:
        await agent.send_message(name, "box", 1)

    async def head() -> None:
        assert (await store.head(run_id)).id == name

    async def graph() -> None:
        await store.head(run_id)
        assert set(await store.graph(run_id)) == {"numbers", "double", "total"}

    async def results() -> None:
        async for page in store.result_pages(run_id, "double"):
            assert all(int(text) == index * 2 for index, text in page)

    async def events() -> None:
        assert all("-" in entry for entry, _ in await store.events(run_id, block_ms=50))

    async def recent() -> None:
        assert all(found.agent == "f34" for found in await store.recent(5))

    async def state_texts() -> None:
        assert (await store.state(run_id)).get("total", "380") == str(ITEMS * (ITEMS - 1))

    return {
        call.__name__: call
        for call in (
            run_task,
            resume,
            stream,
            fork,
            state,
            snapshots,
            recover,
            signal,
            message,
            head,
            graph,
            results,
            events,
            recent,
            state_texts,
        )
    }


async def cut_short(call: Callable[[], Awaitable[object]], seconds: float) -> None:
    with suppress(TimeoutError, *RIGHT_ERRORS):
        await asyncio.wait_for(call(), seconds)


def own_connections(server: RealServer) -> list[str]:
    with looking_at(server.url) as client:
        names = [str(each["name"]) for each in client.client_list()]
    return [name for name in names if name.startswith("graphflow:") and name.endswith(f":{os.getpid()}")]


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=pytest.mark.long)])
def test_calls_that_are_cut_short_disturb_nobody_and_leave_nothing(rounds: int, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    numbers = random.Random(seed)
    began: Counter[int] = Counter()
    names = [f"storm-{number}" for number in range(3)]

    async def main(server: RealServer) -> None:
        proxy = ChaosProxy(str(server.socket_path))
        proxy.latency = lambda: numbers.uniform(0, 0.006)
        async with proxy:
            agent = agent_on(proxy.url, began)
            async with RedisStore(parse_address(proxy.url)) as store:
                for _ in range(rounds):
                    storm = []
                    for name in names:
                        calls = calls_of(agent, store, name)
                        storm += [
                            cut_short(call, PATIENCE * numbers.random() ** 2)
                            for call in calls.values()
                            for _ in range(3)
                        ]
                    numbers.shuffle(storm)
                    await asyncio.gather(*storm)
                # Nobody is left to hold a connection of the pool: with one lost, one of these would wait for ever.
                async with asyncio.timeout(10):
                    await asyncio.gather(*(store.recent(3) for _ in range(100)))
            async with asyncio.timeout(20):
                for name in names:
                    await calls_of(agent, store, name)["run_task"]()
                    with suppress(RunNotFound):
                        assert (await agent.resume(f"{name}-fork")).status == "complete"
        assert len(asyncio.all_tasks()) == 1, "no task of a call that was cut short is left"

    with RealServer() as server:
        run(main(server))
        wait_until(lambda: not own_connections(server), what="the end of every connection")
        with looking_at(server.url) as client:
            for name in names:
                leases = int(client.hget(f"gf:run:{{{name}}}", "leases"))
                assert records(client, name) == {str(index): str(index * 2) for index in range(ITEMS)}
                forget_what_was_sent(client, f"gf:run:{{{name}}}")
                check_over(client, name, ["numbers", "double", "total"], ["double"], status="complete")
                assert leases >= 1
    assert set(began) == set(range(ITEMS))


def records(client: redis.Redis, name: str) -> dict[str, str]:
    return client.hgetall(f"gf:run:{{{name}}}:map:double:out")


def forget_what_was_sent(client: redis.Redis, key: str) -> None:
    """Signals and messages that nobody waits for stay, and may have come before the run began."""
    client.delete(*client.scan_iter(f"{key}:snapshot:*"))
    client.delete(f"{key}:signals", f"{key}:mailbox:box", f"{key}:inbox")
    for entry, fields in client.xrange(f"{key}:events"):
        if fields["event"] == "SignalArrived":
            client.xdel(f"{key}:events", entry)
