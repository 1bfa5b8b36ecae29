"""Which runs an agent has, and who drives the one that a call waits for."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from graphflow import Agent, RedisCache, RunStatus, RunSummary, Task
from graphflow.errors import InvalidSetting
from graphflow.testing import MemoryCache, TurnedClock
from tests.acceptance.command_line import graphflow
from tests.acceptance.support import client, until
from tests.helpers import run

THIS_PROCESS = f"{socket.gethostname()}:{os.getpid()}"


def agent_named(cache: RedisCache, name: str = "shop") -> Agent:
    agent = Agent(cache=cache, name=name)

    @agent.node
    def price(task):
        if task.params.get("fails"):
            raise ValueError("no price")
        return 7

    @agent.node
    def bill(price):
        return price

    return agent


@pytest.fixture(params=["redis", "memory"])
def cache(request: pytest.FixtureRequest) -> RedisCache:
    if request.param == "memory":
        return MemoryCache()
    return RedisCache(request.getfixturevalue("redis_url"), prefix=f"runs-{uuid.uuid4().hex}")


async def three_runs(agent: Agent) -> None:
    for number in range(3):
        order = Task(type="order", objective=f"sell {number}", params={"fails": number == 1})
        await agent.run_task(order, run_id=f"order-{number}")
        await asyncio.sleep(0.002)


def test_runs_of_an_agent_are_listed_the_latest_first(cache: RedisCache) -> None:
    async def main() -> list[RunSummary]:
        agent, other = agent_named(cache), agent_named(cache, "another")
        await three_runs(agent)
        await other.run_task(Task(type="order"), run_id="not-ours")
        return await agent.runs()

    began = time.time()
    found = run(main())

    assert [summary.run_id for summary in found] == ["order-2", "order-1", "order-0"]
    assert [summary.status for summary in found] == ["complete", "failed", "complete"]
    latest, failed, _ = found
    assert (latest.type, latest.objective) == ("order", "sell 2")
    assert (latest.nodes_done, latest.nodes) == (2, 2)
    assert latest.progress == "2/2 nodes, 0 active"
    assert (latest.error, latest.driver) == ("", "")
    assert "price" in failed.error
    assert began - 1 < latest.created <= latest.started <= latest.finished <= time.time() + 1
    assert latest.created <= latest.updated <= time.time() + 1


def test_runs_are_listed_by_their_status_and_their_time(cache: RedisCache) -> None:
    async def main() -> None:
        agent = agent_named(cache)
        await three_runs(agent)

        async def ids(**wanted: object) -> list[str]:
            return [summary.run_id for summary in await agent.runs(**wanted)]  # type: ignore[arg-type]

        second = (await agent.runs())[1].created
        assert await ids(status="failed") == ["order-1"]
        assert await ids(status=RunStatus.COMPLETE) == ["order-2", "order-0"]
        assert await ids(since=second) == ["order-2", "order-1"]
        assert await ids(since=second + 0.0001) == ["order-2"]
        assert await ids(since=datetime.fromtimestamp(second - 0.001, UTC)) == ["order-2", "order-1"]
        assert await ids(limit=2) == ["order-2", "order-1"]
        assert await ids(limit=None, status="complete", since=0) == ["order-2", "order-0"]

    run(main())


@pytest.mark.parametrize("wrong", [{"status": "done"}, {"since": "yesterday"}, {"limit": 0}])
def test_wrong_wish_for_runs_is_refused_by_name(wrong: dict[str, object]) -> None:
    agent = agent_named(MemoryCache())

    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        run(agent.runs(**wrong))  # type: ignore[arg-type]


def test_all_pages_of_runs_are_listed_each_run_once(redis_url: str) -> None:
    cache = RedisCache(redis_url, prefix=f"runs-{uuid.uuid4().hex}")

    async def main() -> list[RunSummary]:
        agent = agent_named(cache)
        await asyncio.gather(
            *(agent.run_task(Task(type="order"), run_id=f"order-{number}") for number in range(70))
        )
        return await agent.runs(limit=None)

    found = run(main())

    assert sorted(summary.run_id for summary in found) == sorted(f"order-{number}" for number in range(70))
    # The index keeps whole milliseconds.
    created = [int(summary.created * 1000) for summary in found]
    assert created == sorted(created, reverse=True)


@pytest.mark.parametrize("damage", ["another type", "no status"])
def test_run_that_cannot_be_read_hides_no_others(
    redis_url: str, caplog: pytest.LogCaptureFixture, tmp_path: Path, damage: str
) -> None:
    prefix = f"runs-{uuid.uuid4().hex}"
    agent = agent_named(RedisCache(redis_url, prefix=prefix))
    run(three_runs(agent))
    key = f"{prefix}:run:{{order-1}}"
    with client(redis_url) as store:
        if damage == "another type":
            store.delete(key)
            store.set(key, "nonsense")
        else:
            store.hset(key, "status", "nonsense")

    found = run(agent.runs())

    assert [summary.run_id for summary in found] == ["order-2", "order-0"]
    assert "run order-1 is left out: " in caplog.text
    listed = graphflow(
        tmp_path, "list", "--url", redis_url, is_forked=False, env={"GRAPHFLOW_PREFIX": prefix}
    )
    assert listed.returncode == 0, listed.stderr
    _, latest, unreadable, first, why = listed.stdout.splitlines()
    assert latest.startswith("order-2  complete")
    assert unreadable.startswith("order-1  unreadable")
    assert first.startswith("order-0  complete")
    assert why.startswith(f"order-1: key '{key}' is not as graphflow left it: ")


def test_run_under_way_is_listed_with_who_drives_it(cache: RedisCache) -> None:
    agent = Agent(cache=cache, name="slow")
    seen: list[RunSummary] = []

    @agent.node
    async def look():
        seen.extend(await agent.runs(status="executing"))

    run(agent.run_task(Task(type="t"), run_id="under-way"))

    [summary] = seen
    assert summary.run_id == "under-way"
    assert summary.nodes == 1
    driver = "process 1 of this test" if isinstance(cache, MemoryCache) else THIS_PROCESS
    assert summary.driver == driver


def test_call_that_waits_for_a_run_of_another_says_for_whom_after_a_second_and_each_ten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "graphflow")
    agent = Agent(cache=MemoryCache(), name="slow")

    @agent.node
    async def slow():
        await asyncio.sleep(25)

    async def main() -> None:
        task = Task(type="t")
        await asyncio.gather(*(agent.run_task(task, run_id="both") for _ in range(2)))

    TurnedClock().run(main())

    said = [record.message for record in caplog.records if "is driven by" in record.message]
    by = "run both is driven by process 1 of this test; waiting for it"
    assert said == [f"{by}, {seconds} s so far" for seconds in (1, 11, 21)]
    assert {record.levelno for record in caplog.records if "is driven by" in record.message} == {logging.INFO}


def test_who_drives_a_run_is_told_by_host_and_process(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graphflow")
    run_id = f"told-{uuid.uuid4().hex}"

    async def main() -> None:
        agent = Agent(cache=RedisCache(redis_url))
        let_end = asyncio.Event()

        @agent.node
        async def wait():
            await let_end.wait()

        both = asyncio.gather(*(agent.run_task(Task(type="t"), run_id=run_id) for _ in range(2)))
        await until(lambda: f"run {run_id} is driven by {THIS_PROCESS}; waiting for it, " in caplog.text)
        let_end.set()
        await both

    run(main())


def test_call_that_waits_for_less_than_a_second_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "graphflow")
    agent = Agent(cache=MemoryCache(), name="fast")

    @agent.node
    async def fast():
        await asyncio.sleep(0.5)

    async def main() -> None:
        await asyncio.gather(*(agent.run_task(Task(type="t"), run_id="both") for _ in range(2)))

    TurnedClock().run(main())

    assert "is driven by" not in caplog.text
