"""A plan that was read from the store says of the graph what the plan says that was compiled from its code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from graphflow.agent import Agent
from graphflow.errors import CorruptState, InvalidGraph
from graphflow.expressions import Expression
from graphflow.graph.nodes import NodeConfig
from graphflow.planning.plan import Plan
from graphflow.planning.stored_plan import plan_from_json
from graphflow.store.replan import plan_from
from tests.properties.test_advance_properties import graphs
from tests.replay.graphs import GOLDEN
from tests.simulation import Inner, choose, plan_of, sub, work

#: What has no description: code, and what depends on the agent alone.
_UNDESCRIBED = {"snapshot", "modules", "config", "map", "flow", "condition"}


def shape(plan: Plan) -> dict[str, Any]:
    """What the rules ask of a plan, as plain data by the names of nodes."""
    return {node.name: node_shape(plan, node) for node in plan.nodes}


def node_shape(plan: Plan, node: Any) -> dict[str, Any]:
    told = {field.name: getattr(node, field.name) for field in fields(node) if field.name not in _UNDESCRIBED}
    told["modules"] = [(module.name, module.timeout, module.module.to) for module in node.modules]
    told["config"] = {name: plain(getattr(node.config, name)) for name in NodeConfig.model_fields}
    told["condition"] = plain(node.condition)
    if node.map is not None:
        told["map"] = {field.name: plain(getattr(node.map, field.name)) for field in fields(node.map)}
    if node.flow is not None:
        told["flow"] = [
            (decision.targets, decision.ends, plain(decision.condition), decision.clears, decision.repeat)
            for decision in (*node.flow.decisions, *filter(None, [node.flow.default]))
        ]
    return told


def plain(value: Any) -> Any:
    if isinstance(value, Expression):
        return value.text
    return "function" if callable(value) or type(value).__name__ == "PlanGenerator" else value


@pytest.mark.parametrize("name", GOLDEN)
def test_stored_graph_is_compiled_to_what_it_was_described_from(name: str) -> None:
    plan = GOLDEN[name].build("memory://").compile(list(GOLDEN[name].state))

    stored = plan_from_json(plan.json)

    assert shape(stored) == shape(plan)
    assert (stored.hash, stored.json, stored.deadline) == (plan.hash, plan.json, plan.deadline)
    assert not stored.is_runnable


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(graphs(wild=True))
def test_random_graphs_too(specs: Any) -> None:
    try:
        plan = plan_of(*(spec.node for spec in specs))
    except InvalidGraph:
        return

    assert shape(plan_from_json(plan.json)) == shape(plan)


def test_functions_in_settings_are_stood_for_by_others_of_their_names() -> None:
    agent = Agent(name="functions")

    def rows(start: int = 0) -> Iterator[int]:
        yield from range(start, 3)

    @agent.node(map_over=rows, where=lambda item: item > 1, reduce=max)
    def double(row: int) -> int:
        return 2 * row

    @agent.node
    def last(double: int) -> int:
        return double

    plan = agent.compile()
    stored = plan_from_json(plan.json)

    assert shape(stored) == shape(plan)
    assert stored.node("double").map.source == "rows"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "nonsense",
        "[]",
        "1",
        '{"nodes": []}',
        '{"nodes": [1], "limits": {}, "name": "x", "hash": "y"}',
        json.dumps({"name": "x", "hash": "y", "limits": {}, "nodes": [{"name": "a", "type": "executor"}]}),
        json.dumps(
            {
                "name": "x",
                "hash": "y",
                "limits": {"max_concurrent_tasks": 1, "max_total_iterations": 1, "deadline": None},
                "nodes": [
                    {"name": "a", "type": "executor", "modules": [{"name": "m"}], "dependencies": ["b"]}
                ],
            }
        ),
        "[" * 100_000,
    ],
)
def test_graph_that_cannot_be_read_is_a_corrupt_state_that_names_its_key(text: str | None) -> None:
    with pytest.raises(CorruptState, match="gf:run:"):
        plan_from("gf:run:{x}:plan", text)


def test_plan_of_sub_graphs_comes_back_with_its_scopes() -> None:
    deep = Inner(work("x"), work("y", "x", max_visits=2), max_total_iterations=7, deadline=5.0)
    middle = Inner(sub("deep", deep, max_retries=3), work("z", "deep"), choose("hub", "z if n > 1"))
    plan = plan_of(work("a"), sub("s", middle, "a", inputs={"n": "1"}, outputs={"m": "n"}))

    stored = plan_from_json(plan.json)

    assert stored.hash == plan.hash
    assert stored.scopes == plan.scopes
    assert [(node.name, node.config, node.inner) for node in stored.nodes] == [
        (node.name, node.config, node.inner) for node in plan.nodes
    ]
