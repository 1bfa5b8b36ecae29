"""Driving that ends or stumbles inside a living process: cancelled at any moment, blocked, asked for twice."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from pathlib import Path

import pytest
import redis

from graphflow.agent import Agent
from graphflow.graph.tasks import Task
from graphflow.result import RunResult
from graphflow.store.cache import RedisCache
from tests.faults.graphs import (
    AGGREGATES,
    FORMS,
    Form,
    agent_of,
    answer_of,
    executions,
    items_of,
    task_of,
)
from tests.faults.harness import looking_at, run_field, wait_bodies_begun
from tests.faults.invariants import check_over, check_run
from tests.faults.proxy import ChaosProxy
from tests.helpers import SOON_SECONDS, run, wait_until
from tests.servers import RealServer

#: Runs that are cancelled, and how often each.
RUNS = 10
CANCELLATIONS = 3


@pytest.mark.parametrize("form", FORMS)
def test_run_cancelled_at_random_moments_is_resumed_in_the_same_process(
    form: Form, redis_server: RealServer, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    numbers = random.Random(seed)

    async def cancel_and_finish(number: int, moments: list[float]) -> None:
        log = tmp_path / f"{number}.log"
        agent = agent_of(form, redis_server.url, log)
        run_id = f"{tmp_path.name}-{number}"
        for moment in moments:
            driving = asyncio.create_task(agent.run_task(task_of(form), run_id=run_id))
            await asyncio.wait([driving], timeout=moment)
            driving.cancel()
            await asyncio.gather(driving, return_exceptions=True)
        outcome = await agent.run_task(task_of(form), run_id=run_id)
        assert outcome[AGGREGATES[form][1]] == answer_of(form)
        if form == "map":
            assert max(executions(log).values()) <= 1 + len(moments)

    async def main() -> None:
        # Together they last as long as an undisturbed run, so that the last ones meet its end.
        plans = [[numbers.uniform(0, 0.12) for _ in range(CANCELLATIONS)] for _ in range(RUNS)]
        await asyncio.gather(*(cancel_and_finish(number, plan) for number, plan in enumerate(plans)))

    run(main())

    with looking_at(redis_server.url) as client:
        for number in range(RUNS):
            check_run(client, f"{tmp_path.name}-{number}", form)
        wait_until(lambda: not _own_connections(client), what="the end of every connection")


def _own_connections(client: redis.Redis) -> list[str]:
    """Names of the connections that graphflow in this process has to the server."""
    names = (str(connection["name"]) for connection in client.client_list())
    return [name for name in names if name.startswith("graphflow:") and name.endswith(f":{os.getpid()}")]


def test_cancelled_driving_does_not_wait_for_a_store_that_is_gone(
    redis_server: RealServer, tmp_path: Path
) -> None:
    log = tmp_path / "bodies.log"

    async def main() -> float:
        async with ChaosProxy(str(redis_server.socket_path)) as proxy:
            agent = agent_of("map", proxy.url, log)
            driving = asyncio.create_task(agent.run_task(task_of("map"), run_id=tmp_path.name))
            await asyncio.to_thread(wait_bodies_begun, log, 3)
            refusing = asyncio.create_task(proxy.refuse(60))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            driving.cancel()
            await asyncio.gather(driving, return_exceptions=True)
            took = time.monotonic() - began
            refusing.cancel()
            return took

    assert run(main()) < SOON_SECONDS


def test_lease_that_is_taken_while_its_taker_is_cancelled_is_given_back(
    redis_server: RealServer, tmp_path: Path
) -> None:
    lease = f"gf:run:{{{tmp_path.name}}}:lease"

    async def main(client: redis.Redis) -> None:
        async with ChaosProxy(str(redis_server.socket_path)) as proxy:
            # Long enough to be cancelled while the lease is taken and the reply is under way.
            proxy.latency = lambda: 0.3
            agent = agent_of("map", proxy.url, tmp_path / "bodies.log")
            driving = asyncio.create_task(agent.run_task(task_of("map"), run_id=tmp_path.name))
            await asyncio.to_thread(wait_until, lambda: client.exists(lease), what="the lease")
            driving.cancel()
            await asyncio.gather(driving, return_exceptions=True)

    with looking_at(redis_server.url) as client:
        run(main(client))
        assert not client.exists(lease)
        assert run_field(client, tmp_path.name, "owner") is None


def test_module_that_blocks_the_event_loop_does_not_lose_the_run(
    redis_server: RealServer, tmp_path: Path
) -> None:
    blocked = threading.Event()

    def agent() -> Agent:
        agent = Agent(cache=RedisCache(redis_server.url), name="blocking", lease_seconds=0.3)

        @agent.node
        async def block(task: Task) -> str:
            blocked.set()
            time.sleep(1.2)  # noqa: ASYNC251 - it is what this test is about
            return "done"

        return agent

    task = Task(type="blocking", objective="block the loop")
    outcomes: list[RunResult] = []

    def drive() -> None:
        outcomes.append(agent().run_task_sync(task, run_id=tmp_path.name))

    first = threading.Thread(target=drive)
    first.start()
    assert blocked.wait(10)
    second = threading.Thread(target=drive)
    second.start()
    for thread in (first, second):
        thread.join(20)

    assert [outcome["block"] for outcome in outcomes] == ["done", "done"]
    with looking_at(redis_server.url) as client:
        assert run_field(client, tmp_path.name, "leases") == "1", "the run stayed with its owner"
        check_over(client, tmp_path.name, ["block"], [], status="complete")


def test_of_many_calls_in_one_process_one_drives_and_all_return_the_result(
    redis_server: RealServer, tmp_path: Path
) -> None:
    log = tmp_path / "bodies.log"

    async def main() -> list[RunResult]:
        agent = agent_of("map", redis_server.url, log)
        others = agent_of("map", redis_server.url, log)
        elsewhere = asyncio.to_thread(others.run_task_sync, task_of("map"), run_id=tmp_path.name)
        here = (agent.run_task(task_of("map"), run_id=tmp_path.name) for _ in range(3))
        return list(await asyncio.gather(elsewhere, *here))

    outcomes = run(main())

    assert [outcome["combine"] for outcome in outcomes] == [answer_of("map")] * 4
    assert set(executions(log)) == set(range(items_of("map")))
    assert set(executions(log).values()) == {1}
    with looking_at(redis_server.url) as client:
        check_run(client, tmp_path.name, "map")
