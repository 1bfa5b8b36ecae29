"""State set at once, from a module run that others have overtaken again and again."""

from __future__ import annotations

import asyncio
from typing import Any

from graphflow import Agent, AgentModule, Node, RedisCache, RunStatus, Task
from tests.helpers import run


def test_run_that_holds_the_whole_state_may_still_set_progress_at_once(redis_url: str) -> None:
    attempts: list[int] = []
    asked, changed = asyncio.Event(), asyncio.Event()

    class Overtaken(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> int:
            attempts.append(len(attempts) + 1)
            number = attempts[-1]
            if number <= 3:
                await cache.get(f"key_{number}")
                asked.set()
                await changed.wait()
                changed.clear()
                await cache.get("other", None)
            await cache.set("progress", number, immediate=True)
            return number

    class Disturber(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> None:
            for number in (1, 2, 3):
                await asked.wait()
                asked.clear()
                await cache.set(f"key_{number}", "changed", immediate=True)
                changed.set()

    agent = Agent(cache=RedisCache(redis_url))
    agent.add_node(Node(name="overtaken", modules=[Overtaken()]))
    agent.add_node(Node(name="disturber", modules=[Disturber()]))
    state = {f"key_{number}": "as it was" for number in (1, 2, 3)}

    outcome = run(asyncio.wait_for(agent.run_task(Task(type="immediate"), state=state), 20))

    assert outcome.status is RunStatus.COMPLETE
    assert attempts == [1, 2, 3, 4]
    assert outcome["progress"] == 4
