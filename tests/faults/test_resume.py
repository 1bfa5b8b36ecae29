"""What a run keeps when nobody drives it for a while: its graph and task, its deadline, its waiting retries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from graphflow.agent import Agent
from graphflow.errors import PlanMismatch, TaskMismatch
from graphflow.graph.tasks import RunStatus, Task
from graphflow.rules import retries
from graphflow.store.cache import RedisCache
from tests.faults.graphs import agent_of, answer_of, executions, task_of
from tests.faults.harness import Job, looking_at, run_field, wait_bodies_begun
from tests.faults.invariants import check_over, check_run
from tests.helpers import run
from tests.servers import RealServer


@pytest.fixture
def interrupted(redis_server: RealServer, tmp_path: Path) -> Job:
    """A run in whose middle the process was killed."""
    job = Job(redis_server.url, tmp_path.name, "map", tmp_path / "bodies.log")
    victim = job.start()
    wait_bodies_begun(job.log, 5)
    assert victim.kill()
    return job


def test_interrupted_run_refuses_another_graph_and_goes_on_with_its_own(interrupted: Job) -> None:
    other = agent_of("map", interrupted.url, interrupted.log, extra_node=True)
    before = executions(interrupted.log)

    with pytest.raises(PlanMismatch, match=interrupted.run_id):
        run(other.run_task(task_of("map"), run_id=interrupted.run_id))

    assert executions(interrupted.log) == before, "nothing ran under the other graph"
    assert interrupted.start().finish()["answer"] == answer_of("map")
    with looking_at(interrupted.url) as client:
        check_run(client, interrupted.run_id, "map")


def test_interrupted_run_refuses_another_task_and_goes_on_with_its_own(interrupted: Job) -> None:
    agent = agent_of("map", interrupted.url, interrupted.log)
    other = Task(type="numbers", objective="double them", params={"data": [1]})

    with pytest.raises(TaskMismatch, match="params"):
        run(agent.run_task(other, run_id=interrupted.run_id))

    assert run(agent.resume(interrupted.run_id))["combine"] == answer_of("map")
    with looking_at(interrupted.url) as client:
        check_run(client, interrupted.run_id, "map")


def test_deadline_counts_from_the_start_of_the_run_over_an_interruption(
    redis_server: RealServer, tmp_path: Path
) -> None:
    def agent() -> Agent:
        agent = Agent(cache=RedisCache(redis_server.url), name="slow", deadline=0.8)

        @agent.node
        async def sleep(task: Task) -> None:
            await asyncio.sleep(60)

        return agent

    task = Task(type="slow", objective="never end")
    with looking_at(redis_server.url) as client:
        run(_stop_when(agent(), task, tmp_path.name, lambda: run_field(client, tmp_path.name, "started")))
        time.sleep(0.4)

        outcome = run(agent().run_task(task, run_id=tmp_path.name))

        assert outcome.status is RunStatus.FAILED
        assert "deadline=0.8" in str(outcome.error)
        assert 0.75 <= outcome.finished - outcome.started <= 1.1, "0.8 s from the first start, not the second"
        check_over(client, tmp_path.name, ["sleep"], [], status="failed")


def test_run_whose_deadline_passed_while_nobody_drove_it_ends_at_once(
    redis_server: RealServer, tmp_path: Path
) -> None:
    began: list[float] = []

    def agent() -> Agent:
        agent = Agent(cache=RedisCache(redis_server.url), name="slow", deadline=0.3)

        @agent.node
        async def sleep(task: Task) -> None:
            began.append(time.monotonic())
            await asyncio.sleep(60)

        return agent

    task = Task(type="slow", objective="never end")
    with looking_at(redis_server.url) as client:
        run(_stop_when(agent(), task, tmp_path.name, lambda: bool(began)))
        time.sleep(0.4)

        outcome = run(agent().run_task(task, run_id=tmp_path.name))

        assert outcome.status is RunStatus.FAILED
        assert len(began) == 1, "its time was over when it was resumed"
        check_over(client, tmp_path.name, ["sleep"], [], status="failed")


def test_waiting_retry_keeps_its_time_and_its_count_over_an_interruption(
    redis_server: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "backoff_seconds", lambda attempts, draw: 0.7)
    began: list[float] = []

    def agent() -> Agent:
        agent = Agent(cache=RedisCache(redis_server.url), name="flaky")

        @agent.node(max_retries=2)
        async def flaky(task: Task) -> str:
            began.append(time.time())
            if len(began) == 1:
                raise ConnectionError("the first time it fails")
            return "done"

        return agent

    task = Task(type="flaky", objective="succeed in the end")
    with looking_at(redis_server.url) as client:
        nodes = f"gf:run:{{{tmp_path.name}}}:nodes"
        waits = lambda: client.hget(nodes, "flaky") == "waiting"  # noqa: E731
        run(_stop_when(agent(), task, tmp_path.name, waits))

        outcome = run(agent().run_task(task, run_id=tmp_path.name))

        assert outcome["flaky"] == "done"
        assert len(began) == 2
        assert 0.69 <= began[1] - began[0] <= 1.2, "the back-off began with the failure, not with the resume"
        assert outcome.node_results["flaky"].attempts == 2
        check_over(client, tmp_path.name, ["flaky"], [], status="complete")


async def _stop_when(agent: Agent, task: Task, run_id: str, condition: Callable[[], object]) -> None:
    """Drive a run until the condition holds, then cancel whoever waits for it, which stops the driving."""
    driving: Awaitable[object] = asyncio.create_task(agent.run_task(task, run_id=run_id))
    while not condition():
        assert not driving.done(), "the run is over already"
        await asyncio.sleep(0.005)
    driving.cancel()
    await asyncio.gather(driving, return_exceptions=True)
