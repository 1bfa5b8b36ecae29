"""One agent that asks a store for all that a store is asked for."""

from __future__ import annotations

import asyncio

from graphflow import Agent, RedisCache, Task
from graphflow.errors import LeaseHeld
from graphflow.ids import RunId
from graphflow.server.address import parse_address
from graphflow.store.checkup import Checkup, check_up
from graphflow.store.redis_store import RedisStore

TASK = Task(type="everything", objective="ask for all of it", params={"numbers": [1, 2, 3, 4]})


def agent_on(url: str) -> Agent:
    agent = Agent(cache=RedisCache(url), name="everything", auto_snapshot=True, lease_seconds=1.0)

    @agent.node
    def numbers(task: Task) -> list[int]:
        return task.params["numbers"]

    @agent.node(map_over="numbers", max_retries=1)
    async def double(number: int) -> int:
        if number == 4:
            raise ValueError("four is not doubled")
        return number * 2

    @agent.node
    async def total(double: list[int], cache) -> int:
        await cache.set("seen", await cache.step("sum", sum, [1, 2]))
        await cache.publish_to_mailbox("letters", {"total": sum(double)})
        await cache.publish_to_mailbox("kept", "nobody takes it")
        # Long enough for the lease to be renewed.
        await asyncio.sleep(0.5)
        return sum(double)

    @agent.node(dependencies=["total"])
    async def letter(cache) -> dict[str, int]:
        return await cache.get_message("letters")

    @agent.decide(after="letter", to=["numbers", "approval"])
    def enough(rounds: int = 0) -> str:
        return "approval"

    @agent.node(start=False)
    async def approval(cache) -> str:
        return await cache.wait_for_signal("approval")

    return agent


async def run_through(url: str) -> None:
    """Everything that an agent does with a run."""
    agent = agent_on(url)
    first = await agent.run_task(TASK, run_id="first")
    assert first.status == "suspended", first.error
    await agent.signal("first", "approval", "yes")
    outcome = await agent.resume("first")
    assert (outcome.status, outcome["approval"], outcome["letter"]) == ("partial", "yes", {"total": 12})
    assert (await agent.state("first"))["total"] == 12
    number = (await agent.snapshots("first"))[0].number
    fork = await agent.fork("first", number, run_id="second")
    assert fork.status == "suspended"
    assert await agent.cancel("second") == "cancelled"
    assert (await agent.run_task(TASK, run_id="third")).status == "suspended"
    assert [event async for event in agent.stream(TASK, run_id="fourth")]
    assert await agent.recover() == []
    async with agent.cache.store() as store:
        assert len(await store.recent(10)) == 4


async def look_after(url: str) -> Checkup:
    """Everything that is done for a store as a whole, and with runs that nobody wants any more."""
    async with RedisStore(parse_address(url)) as store:
        held = await store.acquire(RunId("third"), 5)
        try:
            await store.delete(held.lease.run_id)
        except LeaseHeld:
            await held.release()
        else:
            raise AssertionError("a run that is driven was deleted")
        await store.delete(held.lease.run_id)
        await store.upkeep().sweep()
    return await check_up(parse_address(url), "gf", fix=True)
