"""Sources of maps that hold no list: told at once, and never taken for an empty one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from graphflow import Agent, AgentModule, InvalidGraph, Node, NodeConfig, NodeStatus, RunResult, RunStatus
from tests.acceptance.support import agent_on, task


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


def mapped(agent: Agent, source: Callable[[], Any], **options: Any) -> RunResult:
    agent.node(name="pages", **options)(source)
    agent.node(name="read", map_over="pages")(lambda page: page)
    return agent.run_task_sync(task())


def test_source_node_that_returned_none_fails_its_map_and_asks_for_the_return(agent: Agent) -> None:
    outcome = mapped(agent, lambda: None)

    assert outcome.status is RunStatus.FAILED
    assert outcome.node_results["pages"].status is NodeStatus.SUCCEEDED
    assert [failure.node for failure in outcome.failures] == ["read"]
    assert "map_over='pages' holds NoneType, not a list of items; did it forget to return?" in str(
        outcome.error
    )
    # Another attempt could not help.
    assert outcome.failures[0].attempts == 1


def test_source_module_that_returned_none_fails_its_map(agent: Agent) -> None:
    class Pages(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> None:
            await cache.set("found", [1, 2])

    agent.add_node(Node(name="pages", modules=[Pages()]))
    agent.node(name="read", map_over="pages")(lambda page: page)

    assert "did it forget to return?" in str(agent.run_task_sync(task()).error)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": 1}, "holds dict, not a list of items; its items would be list(it.items())"),
        ("abc", "holds str, not a list of items; split it, or put it into a list"),
        (b"abc", "holds bytes, not a list of items; split it, or put it into a list"),
        (5, "holds int, not a list of items; put it into a list"),
    ],
)
def test_source_that_is_no_list_fails_its_map_with_what_to_do(agent: Agent, value: Any, words: str) -> None:
    outcome = mapped(agent, lambda: value)

    assert outcome.status is RunStatus.FAILED
    assert words in str(outcome.error)
    assert outcome.failures[0].attempts == 1


def test_state_key_that_holds_none_fails_its_map(agent: Agent) -> None:
    agent.node(name="read", map_over="pages")(lambda page: page)

    outcome = agent.run_task_sync(task(), state={"pages": None})

    assert "map_over='pages' holds NoneType, not a list of items; was it forgotten?" in str(outcome.error)


def test_source_node_that_was_skipped_is_an_empty_map(agent: Agent) -> None:
    agent.node(name="other")(lambda: 1)
    agent.node(name="pages", condition="false")(lambda: [1])
    agent.node(name="read", map_over="pages", dependencies=["other"])(lambda page: page)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["read"] == []


@pytest.mark.parametrize("pages", [[], [[1], [2]]])
def test_map_over_a_reduced_map_is_empty_without_results_and_told_of_a_reduce_that_gave_none(
    agent: Agent, pages: list[list[int]]
) -> None:
    agent.node(name="pages")(lambda: pages)
    agent.node(name="joined", map_over="pages", reduce=lambda value, page: value.extend(page))(
        lambda page: page
    )
    agent.node(name="read", map_over="joined")(lambda page: page)

    outcome = agent.run_task_sync(task())

    if pages:
        assert "map_over='joined' holds NoneType, not a list of items; did it forget" in str(outcome.error)
    else:
        assert outcome.status is RunStatus.COMPLETE, outcome.error


def rows() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda: rows, "a function is no value; was it meant to be called?"),
        (lambda: rows(), "a generator can be gone through once; store a list of what it yields"),
    ],
)
def test_node_that_returned_a_generator_or_its_function_is_told_so(
    agent: Agent, returned: Callable[[], Any], words: str
) -> None:
    assert words in str(mapped(agent, returned).error)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (rows(), "map_over is the generator that rows() gave; give it the function, without calling it"),
        ([1, 2], "map_over is a list; name the node or state key that holds the items"),
    ],
)
def test_map_over_that_is_no_source_is_refused_when_the_graph_is_compiled(
    agent: Agent, source: Any, words: str
) -> None:
    agent.node(name="read", map_over=source)(lambda page: page)
    agent.add_node(Node(name="other", node_config=NodeConfig(map_over=source)))

    with pytest.raises(InvalidGraph) as caught:
        agent.run_task_sync(task())

    assert f"node 'read': {words}" in str(caught.value)
    assert f"node 'other': {words}" in str(caught.value)
