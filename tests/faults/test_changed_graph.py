"""F38: the graph changed between a crash and the resume. Refused with the differences, or accepted and never mixed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from graphflow.agent import Agent
from graphflow.entrance import driving as recovery
from graphflow.errors import LeaseHeld, PlanMismatch
from graphflow.events import GraphChanged
from graphflow.graph.cache import Cache
from graphflow.graph.tasks import RunStatus, Task
from graphflow.result import RunResult
from graphflow.store.cache import RedisCache
from tests.acceptance.support import until
from tests.faults.harness import looking_at, run_field
from tests.helpers import run
from tests.servers import RealServer

TASK = Task(type="changed", objective="go on under another graph")


class Graphs:
    """Versions of one graph over one store. What ran is noted, and `slow` waits for `opened`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ran: list[str] = []
        self.opened = asyncio.Event()
        self.begun = asyncio.Event()

    def agent(self, *builds: Callable[[Agent], None]) -> Agent:
        agent = Agent(cache=RedisCache(self.url), name="changed")
        for build in builds:
            build(agent)
        return agent

    def first(self, agent: Agent) -> None:
        @agent.node
        def first() -> int:
            self.ran.append("first")
            return 1

    def slow(self, agent: Agent) -> None:
        @agent.node
        async def slow(first: int) -> int:
            self.ran.append("slow")
            self.begun.set()
            await self.opened.wait()
            return first + 1

    def last(self, agent: Agent) -> None:
        @agent.node
        def last(slow: int) -> int:
            self.ran.append("last")
            return slow + 1

    def patient_last(self, agent: Agent) -> None:
        @agent.node(max_retries=7)
        def last(slow: int) -> int:
            self.ran.append("last")
            return slow + 1

    def extra(self, agent: Agent) -> None:
        """Depends on what had settled before it came."""

        @agent.node
        def extra(first: int) -> int:
            self.ran.append("extra")
            return first * 10

    def root(self, agent: Agent) -> None:
        @agent.node
        def root() -> str:
            self.ran.append("root")
            return "from nothing"

    async def interrupt(self, agent: Agent, run_id: str, **arguments: Any) -> None:
        """Drive the run until `slow` has begun, and give it up there."""
        driving = asyncio.create_task(agent.run_task(TASK, run_id=run_id, **arguments))
        await self.begun.wait()
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)

    async def accept(self, agent: Agent, run_id: str) -> RunResult:
        self.opened.set()
        return await agent.resume(run_id, accept_changes=True)


def test_changed_graph_is_refused_with_its_differences(redis_server: RealServer, tmp_path: Path) -> None:
    async def main() -> PlanMismatch:
        graphs = Graphs(redis_server.url)
        await graphs.interrupt(graphs.agent(graphs.first, graphs.slow, graphs.last), tmp_path.name)
        with pytest.raises(PlanMismatch) as caught:
            await graphs.agent(graphs.first, graphs.slow, graphs.patient_last, graphs.extra).resume(
                tmp_path.name
            )
        assert graphs.ran == ["first", "slow"]
        return caught.value

    refused = run(main())

    assert refused.differences == (
        "node 'extra' was added",
        "node 'last': max_retries was not set, is 7",
    )
    assert all(difference in str(refused) for difference in refused.differences)


def test_accepted_graph_keeps_what_is_done_and_runs_what_is_new(
    redis_server: RealServer, tmp_path: Path
) -> None:
    async def main() -> None:
        graphs = Graphs(redis_server.url)
        await graphs.interrupt(graphs.agent(graphs.first, graphs.slow, graphs.last), tmp_path.name)
        changed = graphs.agent(graphs.first, graphs.slow, graphs.extra, graphs.root)

        outcome = await graphs.accept(changed, tmp_path.name)

        assert outcome.status is RunStatus.COMPLETE
        assert (outcome["slow"], outcome["extra"], outcome["root"]) == (2, 10, "from nothing")
        assert sorted(graphs.ran) == ["extra", "first", "root", "slow", "slow"]
        assert "last" not in outcome.node_results
        again = await changed.resume(tmp_path.name)
        assert again.status is RunStatus.COMPLETE
        assert len(graphs.ran) == 5
        async with RedisCache(redis_server.url).store() as store:
            events = [event for _, event in await store.events(outcome.run.id)]
        (change,) = [event for event in events if isinstance(event, GraphChanged)]
        assert change.changes == "node 'last' was removed; node 'extra' was added; node 'root' was added"

    run(main())
    with looking_at(redis_server.url) as client:
        assert client.hgetall(f"gf:run:{{{tmp_path.name}}}:nodes") == dict.fromkeys(
            ("first", "slow", "extra", "root"), "succeeded"
        )
        assert not client.exists(f"gf:run:{{{tmp_path.name}}}:node:last")
        assert run_field(client, tmp_path.name, "owner") is None


def test_node_that_is_active_cannot_go(redis_server: RealServer, tmp_path: Path) -> None:
    async def main() -> None:
        graphs = Graphs(redis_server.url)
        original = graphs.agent(graphs.first, graphs.slow, graphs.last)
        await graphs.interrupt(original, tmp_path.name)

        with pytest.raises(PlanMismatch) as caught:
            await graphs.accept(graphs.agent(graphs.first, graphs.extra), tmp_path.name)

        assert caught.value.obstacles == ("node 'slow' is running and was removed",)
        outcome = await original.resume(tmp_path.name)
        assert outcome["last"] == 3, "the run is still that of the first graph"

    run(main())


def test_old_graph_is_refused_once_another_was_accepted(redis_server: RealServer, tmp_path: Path) -> None:
    async def main() -> None:
        graphs = Graphs(redis_server.url)
        original = graphs.agent(graphs.first, graphs.slow, graphs.last)
        await graphs.interrupt(original, tmp_path.name)
        changed = graphs.agent(graphs.first, graphs.slow, graphs.patient_last)
        graphs.begun.clear()
        accepting = asyncio.create_task(changed.resume(tmp_path.name, accept_changes=True))
        await graphs.begun.wait()

        with pytest.raises(PlanMismatch):
            await original.resume(tmp_path.name)
        with pytest.raises(LeaseHeld):
            await original.resume(tmp_path.name, accept_changes=True)

        graphs.opened.set()
        assert (await accepting)["last"] == 3

    run(main())


def test_finished_run_keeps_its_graph(redis_server: RealServer, tmp_path: Path) -> None:
    async def main() -> None:
        graphs = Graphs(redis_server.url)
        await graphs.agent(graphs.first).run_task(TASK, run_id=tmp_path.name)

        with pytest.raises(PlanMismatch, match="'root' was added"):
            await graphs.accept(graphs.agent(graphs.first, graphs.root), tmp_path.name)

        assert graphs.ran == ["first"]

    run(main())


def test_run_that_ends_while_another_graph_is_accepted_keeps_its_own(
    redis_server: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        graphs = Graphs(redis_server.url)
        original = graphs.agent(graphs.first, graphs.slow, graphs.last)
        await graphs.interrupt(original, tmp_path.name)
        replan = recovery.replan

        async def ended_before(*arguments: Any, **options: Any) -> None:
            await original.cancel(tmp_path.name)
            await replan(*arguments, **options)

        monkeypatch.setattr("graphflow.entrance.entering.replan", ended_before)
        with pytest.raises(PlanMismatch, match="'root' was added"):
            await graphs.accept(graphs.agent(graphs.first, graphs.slow, graphs.root), tmp_path.name)

        assert (await original.resume(tmp_path.name)).status is RunStatus.CANCELLED
        assert graphs.ran == ["first", "slow"]

    run(main())


def test_choice_of_a_node_that_is_gone_is_forgotten(redis_server: RealServer, tmp_path: Path) -> None:
    """A decider that has chosen among nodes of which one is removed."""

    nodes = f"gf:run:{{{tmp_path.name}}}:nodes"

    async def main(client: redis.Redis) -> None:
        graphs = Graphs(redis_server.url)

        def decide(agent: Agent, *targets: str) -> None:
            @agent.decide(after="first", to=list(targets))
            def choose() -> list[str]:
                graphs.ran.append("choose")
                return list(targets)

        def unneeded(agent: Agent) -> None:
            @agent.node(start=False)
            def unneeded() -> None:
                graphs.ran.append("unneeded")

        def chosen_slow(agent: Agent) -> None:
            @agent.node(start=False)
            async def slow() -> int:
                await until(lambda: client.hget(nodes, "unneeded") in ("succeeded", None))
                graphs.begun.set()
                await graphs.opened.wait()
                return 2

        original = graphs.agent(
            graphs.first, chosen_slow, unneeded, lambda agent: decide(agent, "slow", "unneeded")
        )
        await graphs.interrupt(original, tmp_path.name)
        outcome = await graphs.accept(
            graphs.agent(graphs.first, chosen_slow, lambda agent: decide(agent, "slow")), tmp_path.name
        )

        assert outcome["slow"] == 2
        assert graphs.ran == ["first", "choose", "unneeded"]

    with looking_at(redis_server.url) as client:
        run(main(client))


def test_map_goes_on_with_its_records_under_the_new_graph(redis_server: RealServer, tmp_path: Path) -> None:
    async def main() -> None:
        graphs = Graphs(redis_server.url)

        def mapped(agent: Agent) -> None:
            @agent.node(map_over="numbers", max_concurrency=2)
            async def double(number: int) -> int:
                graphs.ran.append(f"double {number}")
                if number >= 3:
                    graphs.begun.set()
                    await graphs.opened.wait()
                return 2 * number

        def total(agent: Agent) -> None:
            @agent.node
            def total(double: list[int]) -> int:
                return sum(double)

        await graphs.interrupt(graphs.agent(mapped), tmp_path.name, state={"numbers": list(range(6))})
        outcome = await graphs.accept(graphs.agent(mapped, total), tmp_path.name)

        assert outcome["total"] == sum(2 * number for number in range(6))
        assert [graphs.ran.count(f"double {number}") for number in range(2)] == [1, 1]

    run(main())


def test_snapshots_of_the_old_graph_are_dropped(redis_server: RealServer, tmp_path: Path) -> None:
    async def main() -> None:
        graphs = Graphs(redis_server.url)
        original = graphs.agent(graphs.first, graphs.slow, graphs.last)
        original.auto_snapshot = True
        await graphs.interrupt(original, tmp_path.name)
        assert len(await original.snapshots(tmp_path.name)) == 1
        changed = graphs.agent(graphs.first, graphs.slow, graphs.extra)
        changed.auto_snapshot = True

        await graphs.accept(changed, tmp_path.name)

        snapshots = await changed.snapshots(tmp_path.name)
        assert all("first" not in snapshot.nodes for snapshot in snapshots)

    run(main())


def test_suspended_run_goes_on_under_an_accepted_graph(redis_server: RealServer, tmp_path: Path) -> None:
    async def main() -> None:
        graphs = Graphs(redis_server.url)

        def asks(agent: Agent) -> None:
            @agent.node
            async def asks(first: int, cache: Cache) -> bool:
                return bool(await cache.wait_for_signal("approved"))

        asked = await graphs.agent(graphs.first, asks).run_task(TASK, run_id=tmp_path.name)
        assert asked.status is RunStatus.SUSPENDED
        changed = graphs.agent(graphs.first, asks, graphs.extra)

        outcome = await changed.resume(tmp_path.name, accept_changes=True)

        assert outcome.status is RunStatus.SUSPENDED
        assert outcome["extra"] == 10
        await changed.signal(tmp_path.name, "approved", True)
        answered = await changed.resume(tmp_path.name)
        assert (answered.status, answered["asks"]) == (RunStatus.COMPLETE, True)

    run(main())
