"""Module runs that want the same keys: nothing is lost, nothing starves, and few runs are repeated."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from graphflow import AgentModule, RunStatus
from tests.acceptance.support import agent_on, module_node, task, until


@pytest.mark.parametrize("pause", [0, 0.002])
def test_32_modules_that_read_and_write_one_counter_lose_nothing_and_repeat_few(
    redis_url: str, pause: float
) -> None:
    executions = 0

    class Count(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            nonlocal executions
            executions += 1
            count = await cache.get("count", 0)
            await asyncio.sleep(pause)
            await cache.set("count", count + 1)

    agent = agent_on(redis_url, max_concurrent_tasks=3)
    for number in range(32):
        agent.add_node(module_node(f"count_{number}", Count()))

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["count"] == 32
    assert executions <= 32 + 4


def test_32_modules_that_append_never_conflict(redis_url: str) -> None:
    executions = 0

    class Append(AgentModule):
        number: int

        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            nonlocal executions
            executions += 1
            await asyncio.sleep(0.001)
            await cache.append("numbers", self.number)
            await cache.increment("total", self.number)

    agent = agent_on(redis_url, max_concurrent_tasks=8)
    for number in range(32):
        agent.add_node(module_node(f"append_{number}", Append(number=number)))

    outcome = agent.run_task_sync(task())

    assert sorted(outcome["numbers"]) == list(range(32))
    assert outcome["total"] == sum(range(32))
    assert executions == 32


def test_32_modules_that_claim_get_different_items(redis_url: str) -> None:
    executions = 0

    class Claim(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            nonlocal executions
            executions += 1
            claimed = await cache.claim("items", where={"free": True})
            assert claimed is not None
            await asyncio.sleep(0.001)
            claimed.set(free=False, by=self.name)
            return claimed.index

    agent = agent_on(redis_url, max_concurrent_tasks=8)
    for number in range(32):
        agent.add_node(module_node(f"claim_{number}", Claim(name=f"claim_{number}")))
    items = [{"number": number, "free": True} for number in range(1_000)]

    outcome = agent.run_task_sync(task(), state={"items": items})

    assert outcome.status is RunStatus.COMPLETE
    assert sorted(outcome.result.values()) == list(range(32))
    assert {item["by"] for item in outcome["items"] if not item["free"]} == {
        f"claim_{number}" for number in range(32)
    }
    assert executions == 32


def test_slow_reader_beside_writers_that_never_stop_commits_after_at_most_three_conflicts(
    redis_url: str,
) -> None:
    executions = 0
    agent = agent_on(redis_url, max_total_iterations=100_000, max_concurrent_tasks=5)

    @agent.node
    async def reader(cache: Any) -> int:
        nonlocal executions
        executions += 1
        seen = await cache.get("n0", 0)
        await asyncio.sleep(0.03)
        seen += await cache.get("n1", 0)
        await cache.set("read", seen)
        return int(seen)

    for number in range(3):

        async def write(cache: Any, key: str = f"n{number}") -> None:
            await cache.increment(key)
            await asyncio.sleep(0.001)

        async def again(cache: Any, node: str = f"writer_{number}") -> str | None:
            return None if await cache.peek("read", None) is not None else node

        agent.node(name=f"writer_{number}")(write)
        agent.decide(name=f"again_{number}", after=f"writer_{number}", to=f"writer_{number}")(again)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["read"] > 0
    assert executions <= 4


def test_items_that_read_a_key_repeat_at_most_once_each_after_a_write_of_it(redis_url: str) -> None:
    executions: Counter[int] = Counter()
    agent = agent_on(redis_url)

    @agent.node(map_over="items")
    async def read(item: int, cache: Any) -> str:
        executions[item] += 1
        config = await cache.get("config")
        await asyncio.sleep(0.05)
        await cache.get("config")
        return str(config)

    @agent.node
    async def write(cache: Any) -> None:
        await until(lambda: len(executions) >= 60)
        await cache.set("config", "new")

    outcome = agent.run_task_sync(task(), state={"items": list(range(100)), "config": "old"})

    assert outcome.status is RunStatus.COMPLETE
    assert len(outcome["read"]) == 100
    assert set(executions) == set(range(100))
    assert max(executions.values()) == 2
    assert outcome["read"].count("new") >= 40


def test_modules_that_move_money_keep_the_total(redis_url: str) -> None:
    class Move(AgentModule):
        source: str
        target: str

        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            available = await cache.get(self.source)
            await asyncio.sleep(0.001)
            amount = available // 2
            received = await cache.get(self.target)
            await cache.set(self.source, available - amount)
            await cache.set(self.target, received + amount)

    accounts = ["a", "b", "c", "d"]
    agent = agent_on(redis_url, max_concurrent_tasks=6)
    for number in range(24):
        source, target = accounts[number % 4], accounts[(number * 3 + 1) % 4]
        if source != target:
            agent.add_node(module_node(f"move_{number}", Move(source=source, target=target)))

    outcome = agent.run_task_sync(task(), state=dict.fromkeys(accounts, 1_000))

    assert outcome.status is RunStatus.COMPLETE
    assert sum(outcome[account] for account in accounts) == 4_000
    assert any(outcome[account] != 1_000 for account in accounts)


def test_exception_over_a_stale_read_is_a_conflict_and_no_failure(redis_url: str) -> None:
    agent = agent_on(redis_url)
    executions = 0

    @agent.node(max_retries=1)
    async def careful(cache: Any) -> str:
        nonlocal executions
        executions += 1
        first = await cache.get("x")
        for _ in range(1_000 if executions == 1 else 0):
            if await cache.peek("y"):
                break
            await asyncio.sleep(0.002)
        if first != await cache.peek("y"):
            raise ValueError("x and y differ")
        return "equal"

    @agent.node
    async def both(cache: Any) -> None:
        await until(lambda: executions)
        await cache.set("x", 1)
        await cache.set("y", 1)

    outcome = agent.run_task_sync(task(), state={"x": 0, "y": 0})

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["careful"] == "equal"
    assert executions == 2
    assert outcome.node_results["careful"].attempts == 1
