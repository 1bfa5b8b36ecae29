"""A text that UTF-8 does not have is refused where it comes in, by a clear error, and nothing is stored."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from graphflow import Agent, AgentModule, InvalidGraph, Node, RedisCache, RunStatus, Task, UnstorableValue
from graphflow.origin import code_of, name_of
from graphflow.server.address import parse_address

LONE = "caf\udce9"


class Quiet(AgentModule):
    async def process(self, cache, semaphore):
        return 1


def agent_with(*nodes: Node, **settings: Any) -> Agent:
    agent = Agent(cache=RedisCache(f"memory://{uuid.uuid4().hex}"), **settings)
    for node in nodes:
        agent.add_node(node)
    return agent


def test_reason_of_a_cancellation() -> None:
    agent = agent_with()

    @agent.node
    async def asks(cache):
        return await cache.wait_for_signal("go")

    assert agent.run_task_sync(Task(type="t"), run_id="r").status is RunStatus.SUSPENDED

    with pytest.raises(UnstorableValue, match="cannot store 'reason': the text holds a lone surrogate"):
        asyncio.run(agent.cancel("r", LONE))

    assert asyncio.run(agent.cancel("r", "enough")) is RunStatus.CANCELLED


@pytest.mark.parametrize(
    ("node", "settings"),
    [
        ({"modules": [Quiet(name=LONE)]}, {}),
        ({"modules": [Quiet(output_mailbox=LONE)]}, {}),
        ({"modules": [Quiet()], "node_config": {"inputs": [LONE]}}, {}),
        ({"modules": [Quiet()], "node_config": {"outputs": [LONE]}}, {}),
        ({"modules": [Quiet()]}, {"name": LONE}),
    ],
)
def test_names_in_a_graph(node: dict[str, Any], settings: dict[str, Any]) -> None:
    agent = agent_with(Node(name="a", **node), **settings)

    with pytest.raises(InvalidGraph) as caught:
        agent.run_task_sync(Task(type="t"))

    (problem,) = caught.value.problems
    assert problem.startswith("the agent: " if settings else "node 'a': ")
    assert "holds a lone surrogate, which UTF-8 has not" in problem
    assert problem.isprintable()


def test_file_whose_name_is_no_utf_8_gives_its_agent_a_name_and_no_origin() -> None:
    assert name_of(f"/folder/{LONE}.py") == "caf?"
    assert code_of(object(), f"/folder/{LONE}.py", parse_address("memory://")) == ""
