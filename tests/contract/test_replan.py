"""Another graph in the place of the one that a run was started with, as the store makes it: all of it or nothing."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence

import pytest
import redis

from graphflow.errors import CorruptState, LeaseLost, PlanMismatch
from graphflow.graph.nodes import Node, NodeConfig
from graphflow.graph.tasks import Task
from graphflow.ids import RunId
from graphflow.planning.compile import compile_plan
from graphflow.planning.plan import Plan
from graphflow.run import NodeState, NodeStatus, Run
from graphflow.server.address import parse_address
from graphflow.store.contract import HeldRun
from graphflow.store.redis_store import RedisStore
from tests.helpers import run
from tests.servers import RealServer
from tests.unit.test_differences import Work


def plan_of(*names: str, retries: int = 3) -> Plan:
    nodes = [
        Node(name=name, modules=[Work(name=name)], node_config=NodeConfig(max_retries=retries))
        for name in names
    ]
    return compile_plan(nodes, name="test", max_concurrent_tasks=1, max_total_iterations=None, deadline=None)


async def created(store: RedisStore, plan: Plan) -> HeldRun:
    run_id = RunId(f"replan-{uuid.uuid4().hex[:8]}")
    task = Task(type="test", objective="change the graph")
    await store.create(Run(run_id, task, [NodeState() for _ in plan.nodes]), plan, agent="test", code="")
    return await store.acquire(run_id, 10)


def test_graph_is_replaced_and_said_in_the_inbox(any_redis_url: str) -> None:
    old, new = plan_of("a", "b"), plan_of("a", "c")

    async def main() -> None:
        async with RedisStore(parse_address(any_redis_url)) as store:
            held = await created(store, old)

            await held.replan(new)

            assert list(await store.graph(held.lease.run_id)) == ["a", "c"]
            assert (await store.head(held.lease.run_id)).plan_hash == new.hash
            loaded = await store.load(held.lease.run_id, new)
            assert [state.status for state in loaded.nodes] == [NodeStatus.PENDING] * 2
            (request,) = await held.take_requests()
            assert json.loads(request) == {
                "request": "graph_changed",
                "changes": ["node 'b' was removed", "node 'c' was added"],
            }
            with pytest.raises(PlanMismatch):
                await store.load(held.lease.run_id, old)
            await held.release()

    run(main())


def test_run_is_driven_on_under_the_same_lease(any_redis_url: str) -> None:
    old, new = plan_of("a"), plan_of("a", retries=5)

    async def main() -> None:
        async with RedisStore(parse_address(any_redis_url)) as store:
            held = await created(store, old)

            await held.replan(new)
            await held.replan(old)

            assert (await store.head(held.lease.run_id)).plan_hash == old.hash
            assert len(await held.take_requests()) == 2
            await held.release()

    run(main())


def test_who_has_lost_the_lease_changes_nothing(any_redis_url: str) -> None:
    old, new = plan_of("a"), plan_of("b")

    async def main() -> None:
        async with RedisStore(parse_address(any_redis_url)) as store:
            held = await created(store, old)
            await held.release()

            with pytest.raises(LeaseLost):
                await held.replan(new)

            assert (await store.head(held.lease.run_id)).plan_hash == old.hash

    run(main())


def _spoil(server: RealServer, key: str, command: Sequence[str]) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.delete(key)
        client.execute_command(command[0], key, *command[1:])


@pytest.mark.parametrize("command", [["SET", "{"], ["SET", "[]"], ["HSET", "a", "b"]])
def test_stored_graph_that_cannot_be_read_is_a_corrupt_state(
    redis_server: RealServer, command: list[str]
) -> None:
    async def main() -> None:
        async with RedisStore(parse_address(redis_server.url)) as store:
            held = await created(store, plan_of("a"))
            key = f"gf:run:{{{held.lease.run_id}}}:plan"
            _spoil(redis_server, key, command)

            with pytest.raises(CorruptState, match=":plan"):
                await held.replan(plan_of("b"))
            with pytest.raises(CorruptState, match=":plan"):
                await store.graph(held.lease.run_id)
            await held.release()

    run(main())


def test_open_runs_are_listed_oldest_first(any_redis_url: str) -> None:
    async def main() -> None:
        async with RedisStore(parse_address(any_redis_url)) as store:
            runs = [await created(store, plan_of("a")) for _ in range(3)]

            found = await store.open_runs()

            # Ids are indexed before their runs are created: others may be listed whose creation was refused.
            ids = [held.lease.run_id for held in runs]
            listed = [each for each in found if each in ids]
            assert sorted(listed) == sorted(ids)
            created_at = [(await store.head(each)).created for each in listed]
            assert created_at == sorted(created_at)

    run(main())
