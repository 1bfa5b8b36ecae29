"""F30: expressions that do not parse, name nothing, or give what is no list. The cases are in tests/unit/test_expressions.py;
here is what becomes of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphflow import Agent, RedisCache
from graphflow.errors import InvalidGraph
from graphflow.graph.tasks import RunStatus
from tests.acceptance.support import agent_on, keys_of_run, task
from tests.helpers import SOON_SECONDS


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


@pytest.mark.parametrize("option", ["condition", "where"])
def test_expression_that_does_not_parse_is_refused_with_its_position_before_anything_is_stored(
    agent: Agent, redis_url: str, tmp_path: Path, option: str
) -> None:
    options = {"map_over": "items"} if option == "where" else {}

    agent.node(name="work", **{option: "len(x +) > 1"}, **options)(lambda item=None: item)
    with pytest.raises(InvalidGraph, match=r"'work'.*at position 7 in expression 'len"):
        agent.run_task_sync(task(), state={"items": [], "x": 1}, run_id=tmp_path.name)

    assert keys_of_run(redis_url, tmp_path.name) == []


def test_condition_on_a_name_that_never_comes_skips_the_node_and_nothing_fails(agent: Agent) -> None:
    agent.node(name="begin")(lambda: 1)
    agent.node(name="reader", dependencies=["begin"], condition="nothing.of.this > 3")(lambda: "never")

    outcome = agent.run_task_sync(task())

    assert outcome.node_results["reader"].status == "skipped"
    assert not outcome.failures


@pytest.mark.parametrize("source", ["text", 7, {"a": 1}, None, True])
def test_map_over_what_is_no_list_fails_with_its_type_and_the_rest_goes_on(
    agent: Agent, source: object
) -> None:
    agent.node(name="work", map_over="items", max_retries=1)(lambda item: item)
    agent.node(name="other")(lambda: "ran")

    outcome = agent.run_task_sync(task(), state={"items": source})

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["other"] == "ran"
    assert "'items'" in outcome.failures[0].error
    assert type(source).__name__ in outcome.failures[0].error or source is None


def test_empty_fan_out_is_gathered_to_an_empty_list_at_once(agent: Agent) -> None:
    agent.node(name="empty")(lambda: [])

    @agent.node(map_over="empty")
    async def work(item: int) -> int:
        return item

    agent.node(name="gather")(lambda work: ["gathered", work])

    outcome = agent.run_task_sync(task())

    assert (outcome.status, outcome["work"], outcome["gather"]) == ("complete", [], ["gathered", []])
    assert outcome.seconds < SOON_SECONDS


def test_items_that_are_equal_are_items_each(agent: Agent) -> None:
    seen: list[int] = []

    @agent.node(map_over="items")
    async def work(item: str, index: int) -> str:
        seen.append(index)
        return f"{item}{index}"

    outcome = agent.run_task_sync(task(), state={"items": ["a"] * 5})

    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert outcome["work"] == ["a0", "a1", "a2", "a3", "a4"]


@pytest.mark.long
def test_a_million_items_are_mapped(redis_url: str) -> None:
    agent = Agent(cache=RedisCache(redis_url), name="million")
    agent.node(name="numbers")(lambda: list(range(1_000_000)))

    @agent.node(map_over="numbers")
    async def same(number: int) -> int:
        return number

    agent.node(name="total")(lambda same: sum(same))

    assert agent.run_task_sync(task())["total"] == 499_999_500_000
