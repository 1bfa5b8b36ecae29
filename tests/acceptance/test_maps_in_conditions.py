"""A condition that reads a map's results sees all of them, however many came in with the last commit."""

from __future__ import annotations

import asyncio

from graphflow import Agent, RedisCache, Task
from tests.helpers import run


def task() -> Task:
    return Task(type="numbers", objective="double them")


def test_condition_sees_items_that_wrote_state_in_the_last_commit(redis_url: str) -> None:
    agent = Agent(cache=RedisCache(redis_url))

    @agent.node
    def numbers(task):
        return list(range(10))

    @agent.node(map_over="numbers")
    async def double(number, cache):
        await cache.increment("doubled", 1)
        return number * 2

    @agent.node(dependencies=["double"], condition="double == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]")
    def report():
        return "all there"

    outcome = run(agent.run_task(task()))

    assert outcome["report"] == "all there"
    assert outcome["doubled"] == 10


def test_condition_sees_more_items_than_one_batch_that_end_at_once(redis_url: str) -> None:
    count = 900
    agent = Agent(cache=RedisCache(redis_url), max_concurrent_tasks=count)
    begun: list[int] = []
    all_begun = asyncio.Event()

    @agent.node
    def numbers(task):
        return list(range(count))

    @agent.node(map_over="numbers")
    async def double(number):
        begun.append(number)
        if len(begun) == count:
            all_begun.set()
        await all_begun.wait()
        return number * 2

    @agent.node(dependencies=["double"], condition=f"len(double) == {count}")
    def report():
        return "all there"

    assert run(agent.run_task(task()))["report"] == "all there"
