"""F21: clocks that jump. On the server's host: stored deadlines of leases are an hour off. In a process: its timers were set by
another clock. No lease outlives twice its length, no wait becomes an hour."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from graphflow import Agent, RedisCache
from graphflow.engine import admission, committer, scheduler
from graphflow.graph.tasks import RunStatus
from tests.acceptance.support import task, until
from tests.faults.graphs import agent_of, answer_of, executions, task_of
from tests.faults.harness import looking_at, run_field, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.helpers import SOON_SECONDS, run
from tests.servers import RealServer

HOUR_MS = 3_600_000


@pytest.mark.parametrize("hours", [1, -1])
def test_lease_whose_deadline_is_an_hour_off_is_either_kept_or_taken_and_the_run_completes(
    hours: int, redis_server: RealServer, tmp_path: Path
) -> None:
    """The driver goes on and its next renewal sets the deadline right, or another takes the run; both see one result."""
    log = tmp_path / "bodies.log"
    lease_seconds = 0.6

    async def main() -> None:
        first = agent_of("map", redis_server.url, log, delay=0.1, lease_seconds=lease_seconds)
        second = agent_of("map", redis_server.url, log, delay=0.1, lease_seconds=lease_seconds)
        driving = asyncio.create_task(first.run_task(task_of("map"), run_id=tmp_path.name))
        await asyncio.to_thread(wait_bodies_begun, log, 4)
        with looking_at(redis_server.url) as client:
            client.hincrby(f"gf:run:{{{tmp_path.name}}}:lease", "deadline", hours * HOUR_MS)
        began = time.monotonic()
        outcomes = await asyncio.gather(driving, second.run_task(task_of("map"), run_id=tmp_path.name))

        assert [outcome["combine"] for outcome in outcomes] == [answer_of("map")] * 2
        assert time.monotonic() - began < SOON_SECONDS

    run(main())
    with looking_at(redis_server.url) as client:
        check_run(client, tmp_path.name, "map")
        assert int(run_field(client, tmp_path.name, "leases") or 0) <= 2
    assert max(executions(log).values()) <= 2


@pytest.mark.parametrize("hours", [1, -1])
def test_run_of_a_driver_that_stands_still_is_free_within_two_lease_lengths_after_a_jump(
    hours: int, redis_server: RealServer, tmp_path: Path
) -> None:
    """The deadline as a driver left it, who has not come back since the clock jumped."""
    log = tmp_path / "bodies.log"
    lease_seconds = 0.6
    agent = agent_of("map", redis_server.url, log, lease_seconds=lease_seconds)

    async def main() -> float:
        driving = asyncio.create_task(agent.run_task(task_of("map"), run_id=tmp_path.name))
        await asyncio.to_thread(wait_bodies_begun, log, 4)
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)
        with looking_at(redis_server.url) as client:
            seconds, _ = client.time()
            deadline = int(seconds) * 1000 + int(lease_seconds * 1000) + hours * HOUR_MS
            fields = {"token": "1-gone", "owner": "elsewhere:1:1", "deadline": deadline, "length": 600}
            client.hset(f"gf:run:{{{tmp_path.name}}}:lease", mapping=fields)
        began = time.monotonic()
        assert (await agent.resume(tmp_path.name))["combine"] == answer_of("map")
        return time.monotonic() - began

    assert run(main()) < SOON_SECONDS


@pytest.mark.parametrize("hours", [1, -1])
def test_retry_that_was_set_by_another_clock_does_not_wait_an_hour(
    hours: int, redis_server: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "BACKOFF_MAX_SECONDS", 0.5)
    calls: list[float] = []

    async def main() -> None:
        agent = Agent(cache=RedisCache(redis_server.url), name="f21", lease_seconds=1)

        @agent.node(max_retries=3)
        async def fails_once() -> str:
            calls.append(time.monotonic())
            if len(calls) == 1:
                raise OSError("not yet")
            return "done"

        with monkeypatch.context() as other:
            for module in (admission, committer, scheduler):
                other.setattr(module, "now", lambda: round(time.time() * 1000 + hours * HOUR_MS, 3))
            other.setattr("graphflow.rules.retries.backoff_seconds", lambda attempts, draw: 600.0)
            driving = asyncio.create_task(agent.run_task(task(), run_id=tmp_path.name))
            with looking_at(redis_server.url) as client:
                key = f"gf:run:{{{tmp_path.name}}}:nodes"
                await until(lambda: client.hget(key, "fails_once") == "waiting")
            driving.cancel()
            await asyncio.gather(driving, return_exceptions=True)
        began = time.monotonic()
        outcome = await agent.resume(tmp_path.name)

        assert (outcome.status, outcome["fails_once"]) == (RunStatus.COMPLETE, "done")
        assert time.monotonic() - began < SOON_SECONDS

    run(main())


def test_deadline_of_a_run_that_was_started_by_a_clock_ahead_is_not_an_hour_longer(
    redis_server: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        agent = Agent(cache=RedisCache(redis_server.url), name="f21", deadline=1.0, lease_seconds=1)
        begun = asyncio.Event()

        @agent.node
        async def waits() -> None:
            begun.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as ahead:
            ahead.setattr(committer, "now", lambda: round(time.time() * 1000 + HOUR_MS, 3))
            driving = asyncio.create_task(agent.run_task(task(), run_id=tmp_path.name))
            await begun.wait()
            driving.cancel()
            await asyncio.gather(driving, return_exceptions=True)
        began = time.monotonic()
        outcome = await agent.resume(tmp_path.name)

        assert outcome.status is RunStatus.FAILED
        assert "deadline=1" in (outcome.error or "")
        assert time.monotonic() - began < SOON_SECONDS

    run(main())
