"""`agent.recover`: one call takes up everything of an agent that nobody drives any more, and nothing else."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from graphflow.agent import Agent
from graphflow.errors import GraphflowError, PlanMismatch, RunInterrupted
from graphflow.graph.tasks import RunStatus, Task
from graphflow.store.cache import RedisCache
from tests.acceptance.support import until
from tests.faults.graphs import agent_of, answer_of, executions
from tests.faults.harness import Job, looking_at, run_field, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.helpers import run
from tests.servers import RealServer

TASK = Task(type="recover", objective="be found again")


class Fleet:
    """Agents of one name over one store, whose runs wait until they may end."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self.opened = asyncio.Event()
        self.begun: list[str] = []

    def agent(self, *, name: str | None = None, extra: bool = False) -> Agent:
        agent = Agent(cache=RedisCache(self.url), name=name or self.name)

        @agent.node
        async def work(task: Task) -> str:
            self.begun.append(task.params["of"])
            await self.opened.wait()
            return task.params["of"]

        if extra:

            @agent.node
            def more(work: str) -> str:
                return work

        return agent

    async def leave_behind(self, agent: Agent, run_id: str) -> None:
        driving = asyncio.create_task(self.start(agent, run_id))
        await until(lambda: run_id in self.begun)
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)

    async def start(self, agent: Agent, run_id: str) -> RunStatus:
        task = TASK.model_copy(update={"params": {"of": run_id}})
        return (await agent.run_task(task, run_id=run_id)).status


def test_runs_of_killed_processes_are_finished(redis_server: RealServer, tmp_path: Path) -> None:
    jobs = [
        Job(redis_server.url, f"{tmp_path.name}-{number}", "map", tmp_path / f"{number}.log")
        for number in range(3)
    ]
    for job in jobs:
        victim = job.start()
        wait_bodies_begun(job.log, 5)
        assert victim.kill()
    agent = agent_of("map", redis_server.url, tmp_path / "recovered.log")

    outcomes = run(agent.recover())

    ours = [outcome for outcome in outcomes if outcome.run_id.startswith(tmp_path.name)]
    assert sorted(outcome.run_id for outcome in ours) == [job.run_id for job in jobs]
    assert all(outcome["combine"] == answer_of("map") for outcome in ours)
    assert set(executions(tmp_path / "recovered.log")), "the rest ran here"
    with looking_at(redis_server.url) as client:
        for job in jobs:
            check_run(client, job.run_id, "map")
    assert run(agent.recover()) == []


def test_only_runs_of_the_agents_name_that_nobody_drives_are_resumed(
    redis_server: RealServer, tmp_path: Path
) -> None:
    name = tmp_path.name

    async def main() -> None:
        fleet = Fleet(redis_server.url, name)
        await fleet.leave_behind(fleet.agent(), f"{name}-1")
        await fleet.leave_behind(fleet.agent(), f"{name}-2")
        await fleet.leave_behind(fleet.agent(name=f"{name}-other"), f"{name}-3")
        driver = fleet.agent()
        driven = asyncio.create_task(fleet.start(driver, f"{name}-4"))
        await until(lambda: f"{name}-4" in fleet.begun)
        recovering = asyncio.create_task(fleet.agent().recover())
        await until(lambda: len(fleet.begun) == 6)
        fleet.opened.set()

        outcomes = await recovering

        assert sorted(outcome.run_id for outcome in outcomes) == [f"{name}-1", f"{name}-2"]
        assert await driven is RunStatus.COMPLETE
        assert sorted(fleet.begun) == [f"{name}-{number}" for number in (1, 1, 2, 2, 3, 4)]

    run(main())


def test_run_of_another_graph_is_reported_and_stops_no_other(
    redis_server: RealServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = tmp_path.name

    async def main() -> None:
        fleet = Fleet(redis_server.url, name)
        await fleet.leave_behind(fleet.agent(extra=True), f"{name}-1")
        await fleet.leave_behind(fleet.agent(), f"{name}-2")
        fleet.opened.set()
        refused: dict[str, GraphflowError] = {}

        outcomes = await fleet.agent().recover(refused=refused.__setitem__)

        assert [outcome.run_id for outcome in outcomes] == [f"{name}-2"]
        assert list(refused) == [f"{name}-1"]
        error = refused[f"{name}-1"]
        assert isinstance(error, PlanMismatch)
        assert error.differences == ("node 'more' was removed",)
        with caplog.at_level(logging.ERROR, "graphflow"):
            assert await fleet.agent().recover() == []

    run(main())
    assert f"run {name}-1 is not resumed: " in caplog.text
    assert "node 'more' was removed" in caplog.text


def test_unreadable_run_is_reported_and_stops_no_other(redis_server: RealServer, tmp_path: Path) -> None:
    name = tmp_path.name

    async def main() -> None:
        fleet = Fleet(redis_server.url, name)
        await fleet.leave_behind(fleet.agent(), f"{name}-1")
        await fleet.leave_behind(fleet.agent(), f"{name}-2")
        with looking_at(redis_server.url) as client:
            client.hset(f"gf:run:{{{name}-1}}:nodes", "work", "dancing")
        fleet.opened.set()
        refused: dict[str, GraphflowError] = {}

        outcomes = await fleet.agent().recover(refused=refused.__setitem__)

        assert [outcome.run_id for outcome in outcomes] == [f"{name}-2"]
        assert "dancing" in str(refused[f"{name}-1"])

    run(main())


def test_limit_takes_the_oldest_runs(redis_server: RealServer, tmp_path: Path) -> None:
    name = tmp_path.name

    async def main() -> None:
        fleet = Fleet(redis_server.url, name)
        for number in range(4):
            await fleet.leave_behind(fleet.agent(), f"{name}-{number}")
        fleet.opened.set()

        first = await fleet.agent().recover(limit=3)
        rest = await fleet.agent().recover(limit=3)

        assert sorted(outcome.run_id for outcome in first) == [f"{name}-{number}" for number in range(3)]
        assert [outcome.run_id for outcome in rest] == [f"{name}-3"]

    run(main())


def test_drained_recovery_gives_its_runs_back(redis_server: RealServer, tmp_path: Path) -> None:
    name = tmp_path.name

    async def main() -> None:
        fleet = Fleet(redis_server.url, name)
        for number in range(3):
            await fleet.leave_behind(fleet.agent(), f"{name}-{number}")
        agent = fleet.agent()
        recovering = asyncio.create_task(agent.recover())
        await until(lambda: len(fleet.begun) == 6)

        agent.drain(0.1)
        with pytest.raises(RunInterrupted):
            await recovering

        with looking_at(redis_server.url) as client:
            assert [run_field(client, f"{name}-{number}", "owner") for number in range(3)] == [None] * 3
        fleet.opened.set()
        assert len(await fleet.agent().recover()) == 3

    run(main())
