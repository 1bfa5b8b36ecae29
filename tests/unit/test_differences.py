"""How graphs differ, in words, and what stands against going on under another one."""

from __future__ import annotations

from typing import Any

from graphflow.errors import PlanMismatch
from graphflow.graph.flow import FlowControlConfig, FlowControlModule, FlowDecision
from graphflow.graph.modules import AgentModule
from graphflow.graph.nodes import Node, NodeConfig
from graphflow.planning.compile import compile_plan
from graphflow.planning.differences import Described, described_nodes, differences, obstacles
from graphflow.run import NodeStatus


class Work(AgentModule):
    async def process(self, cache: Any, semaphore: Any) -> None:
        """Nothing."""


def graph(*nodes: Node) -> Described:
    plan = compile_plan(
        nodes,
        name="test",
        state_keys=["numbers"],
        max_concurrent_tasks=1,
        max_total_iterations=None,
        deadline=None,
    )
    return described_nodes(plan.json)


def node(name: str, *dependencies: str, modules: int = 1, **config: Any) -> Node:
    return Node(
        name=name,
        modules=[Work(name=f"{name}-{number}") for number in range(modules)],
        dependencies=list(dependencies),
        node_config=NodeConfig(**config),
    )


def flow(name: str, condition: str, *dependencies: str) -> Node:
    config = FlowControlConfig(decisions=[FlowDecision(next_node="b", condition=condition)])
    return Node(name=name, modules=[FlowControlModule(flow_config=config)], dependencies=list(dependencies))


def test_equal_graphs_have_no_differences() -> None:
    assert differences(graph(node("a"), node("b", "a")), graph(node("a"), node("b", "a"))) == ()


def test_nodes_that_came_and_went_are_named() -> None:
    found = differences(graph(node("a"), node("b")), graph(node("a"), node("c")))

    assert found == ("node 'b' was removed", "node 'c' was added")


def test_changed_settings_edges_and_conditions_are_named_with_both_values() -> None:
    old = graph(node("a"), node("b", "a", max_retries=2), flow("f", "x > 1", "a"))
    new = graph(node("a"), node("b", max_retries=5, condition="x"), flow("f", "x > 2", "a", "b"))

    found = differences(old, new)

    assert "node 'b': max_retries was 2, is 5" in found
    assert "node 'b': condition was not set, is \"x\"" in found
    assert "node 'b': dependencies was [\"a\"], is not set" in found
    assert any('decisions[0].condition was "x > 1", is "x > 2"' in phrase for phrase in found)


def test_what_is_active_must_stay_with_its_modules_and_its_source() -> None:
    old = graph(node("a"), node("b", "a"), node("c", "a", map_over="numbers"))
    new = graph(node("b", modules=2), node("c"))
    statuses = dict.fromkeys("abc", NodeStatus.RUNNING)

    assert obstacles(old, new, statuses) == (
        "node 'a' is running and was removed",
        "node 'b' is running and its modules changed",
        "node 'c' is running and its map_over changed",
    )
    assert obstacles(old, new, dict.fromkeys("abc", NodeStatus.PENDING)) == ()


def test_what_has_run_as_a_map_must_stay_one() -> None:
    plain, mapped = graph(node("c")), graph(node("c", map_over="numbers"))

    for status in (NodeStatus.SUCCEEDED, NodeStatus.FAILED):
        assert obstacles(mapped, plain, {"c": status}) == ("node 'c' has run as a map and is now no map",)
        assert obstacles(plain, mapped, {"c": status}) == ("node 'c' has run once and is now a map",)
    assert obstacles(mapped, plain, {"c": NodeStatus.SKIPPED}) == ()


def test_mismatch_names_the_differences_and_both_remedies() -> None:
    error = PlanMismatch("nightly", "aaa", "bbb", ["node 'b' was removed"])

    assert "node 'b' was removed" in str(error)
    assert "accept_changes=True" in str(error)
    assert "graphflow resume nightly --accept-changes" in str(error)


def test_mismatch_with_obstacles_names_these_alone() -> None:
    error = PlanMismatch(
        "nightly", "aaa", "bbb", ["node 'c' was added"], ["node 'a' is running and was removed"]
    )

    assert "node 'a' is running and was removed" in str(error)
    assert "'c'" not in str(error)
    assert "accept" not in str(error)
