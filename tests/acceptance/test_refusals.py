"""Graphs that cannot work are refused as a whole, with every mistake in one error, before a key is written."""

from __future__ import annotations

from typing import Any

import pytest

from graphflow import (
    Agent,
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    InvalidGraph,
    ModuleType,
    Node,
    NodeConfig,
)
from tests.acceptance.support import agent_on, client, keys_of_run, module_node, task
from tests.helpers import run


class Works(AgentModule):
    async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
        return 1


def flow(*decisions: FlowDecision, **config: Any) -> FlowControlModule:
    return FlowControlModule(flow_config=FlowControlConfig(decisions=list(decisions), **config))


def unknown_dependency(agent: Agent) -> None:
    agent.add_node(module_node("reader", Works(), dependencies=["writr"]))


def unknown_target(agent: Agent) -> None:
    module = flow(FlowDecision(next_node="writr", condition="x == 1"))
    agent.add_node(
        Node(name="choose", type=ModuleType.FLOW_CONTROL, modules=[module], dependencies=["writer"])
    )


def unknown_on_error(agent: Agent) -> None:
    agent.add_node(module_node("reader", Works(), on_error="writr"))


def dependency_cycle(agent: Agent) -> None:
    agent.add_node(module_node("a", Works(), dependencies=["b"]))
    agent.add_node(module_node("b", Works(), dependencies=["a"]))


def duplicate_name(agent: Agent) -> None:
    agent.add_node(module_node("writer", Works()))


def bad_name(agent: Agent) -> None:
    agent.add_node(module_node("two words", Works()))


def reserved_name(agent: Agent) -> None:
    agent.add_node(module_node("errors", Works()))


def expression_that_does_not_parse(agent: Agent) -> None:
    agent.add_node(module_node("reader", Works(), condition="len(x) =< 3"))


def expression_with_an_unknown_function(agent: Agent) -> None:
    agent.add_node(module_node("reader", Works(), condition="eval('1')"))


def parameter_that_nothing_fills(agent: Agent) -> None:
    @agent.node
    def reader(writr: int) -> int:
        return writr


def node_that_can_never_start(agent: Agent) -> None:
    agent.add_node(module_node("reader", Works(), start=False))


def map_of_several_modules(agent: Agent) -> None:
    agent.add_node(module_node("reader", Works(), Works(), map_over="writer"))


def sync_function_with_cache(agent: Agent) -> None:
    @agent.node
    def reader(cache: Any) -> int:
        return 1


def unknown_executor(agent: Agent) -> None:
    agent.add_node(module_node("reader", Works(), executor="submarine"))


def map_over_nothing(agent: Agent) -> None:
    agent.add_node(module_node("reader", Works(), map_over="writr"))


def node_without_modules(agent: Agent) -> None:
    agent.add_node(Node(name="reader"))


REFUSALS = [
    (unknown_dependency, ["'reader'", "'writr'", "writer"]),
    (unknown_target, ["'choose'", "'writr'", "writer"]),
    (unknown_on_error, ["'reader'", "'writr'", "writer"]),
    (dependency_cycle, ["a", "b", "cycle"]),
    (duplicate_name, ["'writer'"]),
    (bad_name, ["'two words'"]),
    (reserved_name, ["'errors'", "reserved"]),
    (expression_that_does_not_parse, ["'reader'", "condition", "=<"]),
    (expression_with_an_unknown_function, ["'reader'", "eval"]),
    (parameter_that_nothing_fills, ["'reader'", "'writr'", "writer"]),
    (node_that_can_never_start, ["'reader'", "start"]),
    (map_of_several_modules, ["'reader'", "2"]),
    (sync_function_with_cache, ["'reader'", "'cache'", "async def"]),
    (unknown_executor, ["'reader'", "'submarine'"]),
    (map_over_nothing, ["'reader'", "'writr'", "writer"]),
    (node_without_modules, ["'reader'", "modules"]),
]


def refused(agent: Agent, url: str) -> tuple[str, ...]:
    """The problems; nothing may have been written."""
    with pytest.raises(InvalidGraph) as caught:
        agent.run_task_sync(task(), run_id="refused-graph")
    assert keys_of_run(url, "refused-graph") == []
    with client(url) as connection:
        assert connection.zscore("gf:runs", "refused-graph") is None
        assert connection.zscore("gf:runs:open", "refused-graph") is None
    return caught.value.problems


@pytest.mark.parametrize(("mistake", "named"), REFUSALS, ids=[mistake.__name__ for mistake, _ in REFUSALS])
def test_mistake_is_refused_and_named_before_anything_is_stored(
    redis_url: str, mistake: Any, named: list[str]
) -> None:
    agent = agent_on(redis_url)
    agent.add_node(module_node("writer", Works()))
    mistake(agent)

    problems = refused(agent, redis_url)

    assert len(problems) == 1, problems
    for word in named:
        assert word in problems[0]


def test_all_mistakes_of_a_graph_are_in_one_error(redis_url: str) -> None:
    agent = agent_on(redis_url)
    agent.add_node(module_node("writer", Works()))
    agent.add_node(module_node("late", Works(), dependencies=["writr"]))
    agent.add_node(module_node("bad name", Works()))
    agent.add_node(module_node("task", Works()))
    agent.add_node(module_node("writer", Works()))
    agent.add_node(module_node("odd", Works(), condition="1 +"))
    agent.add_node(module_node("mapped", Works(), Works(), map_over="writer", executor="submarine"))

    @agent.node
    def sync(cache: Any) -> None: ...

    @agent.node
    def misspelt(wirter: int) -> None: ...

    problems = "\n".join(refused(agent, redis_url))

    for word in (
        "'writr'",
        "'bad name'",
        "'task'",
        "'writer'",
        "'odd'",
        "'mapped'",
        "'submarine'",
        "'cache'",
        "'wirter'",
    ):
        assert word in problems
    assert len(refused(agent, redis_url)) >= 9


def test_misspelt_parameter_names_its_neighbours(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    def documents() -> list[str]:
        return []

    @agent.node
    def summary(documnets: list[str]) -> str:
        return ""

    with pytest.raises(InvalidGraph, match=r"'documnets' of function .*summary.*documents"):
        agent.run_task_sync(task())


def test_misspelt_parameter_that_means_a_given_state_key_is_filled_once_it_is_given(redis_url: str) -> None:
    agent = agent_on(redis_url)
    agent.node(name="reader")(lambda given: given)

    with pytest.raises(InvalidGraph, match="'given'"):
        agent.run_task_sync(task())

    assert agent.run_task_sync(task(), state={"given": 3})["reader"] == 3


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: NodeConfig(max_retry=3), "max_retry"),
        (lambda: Node(name="x", depends_on=["y"]), "depends_on"),
        (lambda: Works(nmae="x"), "nmae"),
        (lambda: FlowDecision(next="x"), "next"),
        (lambda: agent_on("memory://unused", max_tasks=3), "max_tasks"),
    ],
)
def test_unknown_keyword_is_an_error_that_names_it(build: Any, named: str) -> None:
    with pytest.raises((ValueError, TypeError), match=named):
        build()


def test_what_is_no_task_and_no_node_is_refused_by_a_sentence(redis_url: str) -> None:
    agent = agent_on(redis_url)

    with pytest.raises(TypeError, match="add_node takes a Node, not function"):
        agent.add_node(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="run_task takes a Task"):
        run(agent.run_task({"type": "numbers"}))  # type: ignore[arg-type]


def test_nodes_added_by_a_result_are_refused_by_name(redis_url: str) -> None:
    class Adds(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            return {"status": "success", "new_nodes": [{"name": "more"}]}

    agent = agent_on(redis_url)
    agent.add_node(Node(name="adds", modules=[Adds()]))

    outcome = agent.run_task_sync(task())

    assert outcome.status == "failed"
    assert "new_nodes is not in this version" in outcome.failures[0].error
    assert outcome.failures[0].attempts == 1
