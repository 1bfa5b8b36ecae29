"""A plan from the description that is stored with a run, for who does not have the agent's code.

It says what `compile.py` says of the graph itself. Where the graph has a function or a module's class, this has a stand-in
that nothing calls: it serves to look at a run and to end it, not to go on with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from graphflow.errors import InvalidGraph
from graphflow.graph.cache import Cache
from graphflow.graph.flow import FlowControlConfig, FlowControlModule, FlowDecision
from graphflow.graph.modules import AgentModule, ModuleConfig, ModuleType
from graphflow.graph.nodes import Graph, Node, NodeConfig, SubgraphModule
from graphflow.planning.compile import compile_plan
from graphflow.planning.describe import FUNCTION_MARK, MAY_BE_FUNCTIONS
from graphflow.planning.plan import Plan


class StoredModule(AgentModule):
    """Stands for a module whose code is not here."""

    async def process(self, cache: Cache, semaphore: object) -> Any:
        raise NotImplementedError("the code of this module is not loaded")


class _StoredGraph(Graph):
    def __init__(self, nodes: list[Node], limits: dict[str, Any]) -> None:
        super().__init__()
        self._nodes += nodes
        self.max_concurrent_tasks = limits["max_concurrent_tasks"]
        self.max_total_iterations = limits["max_total_iterations"]
        self.deadline = limits["deadline"]


def plan_from_json(text: str) -> Plan:
    """The plan that `describe.plan_json` wrote. UNREADABLE if it is none."""
    described = json.loads(text)
    inner_limits = described.get("inner_limits", {})
    nodes, limits = [_node(node, inner_limits, "") for node in described["nodes"]], described["limits"]
    sources = [node.node_config.map_over for node in nodes]
    try:
        plan = compile_plan(
            nodes,
            name=described["name"],
            state_keys=[source for source in sources if isinstance(source, str)],
            max_concurrent_tasks=limits["max_concurrent_tasks"],
            max_total_iterations=limits["max_total_iterations"],
            deadline=limits["deadline"],
        )
    except InvalidGraph as error:
        raise ValueError(str(error)) from error
    return replace(plan, hash=described["hash"], json=text, warnings=(), is_runnable=False)


def _node(description: dict[str, Any], inner_limits: dict[str, dict[str, Any]], prefix: str) -> Node:
    """`prefix` is the path of the graph that it stands in, `inner_limits` are by the paths of sub-graphs."""
    config = dict(description.get("config", {}))
    for setting in MAY_BE_FUNCTIONS:
        value = config.get(setting)
        if isinstance(value, str) and value.startswith(FUNCTION_MARK):
            config[setting] = _function(setting, value.removeprefix(FUNCTION_MARK))
    return Node(
        name=description["name"],
        type=ModuleType(description["type"]),
        modules=[
            _module(module, inner_limits, prefix + description["name"]) for module in description["modules"]
        ],
        dependencies=description.get("dependencies", []),
        start=description.get("start"),
        node_config=NodeConfig(**config),
    )


def _module(description: dict[str, Any], inner_limits: dict[str, dict[str, Any]], path: str) -> AgentModule:
    if "graph" in description:
        nodes = [_node(node, inner_limits, f"{path}/") for node in description["graph"]]
        return SubgraphModule(graph=_StoredGraph(nodes, inner_limits[path]))
    if "flow" in description:
        return FlowControlModule(name=description["name"], flow_config=_flow(description["flow"]))
    limits = {name: description[name] for name in ("timeout", "stop_on_success") if name in description}
    return StoredModule(
        name=description["name"],
        config=ModuleConfig(**limits),
        to=description.get("to", []),
        input_mailboxes=description.get("input_mailboxes", []),
        output_mailbox=description.get("output_mailbox"),
    )


def _flow(description: dict[str, Any]) -> FlowControlConfig:
    decisions = [
        FlowDecision(
            next_node=entry["to"],
            condition=entry.get("condition"),
            condition_variables=entry.get("clears", []),
            repeat=entry.get("repeat", False),
        )
        for entry in description["decisions"]
    ]
    return FlowControlConfig(
        decisions=decisions,
        default=description.get("default"),
        select=description.get("select", "all"),
    )


def _function(setting: str, name: str) -> Callable[..., Any]:
    """One that can stand in this setting, under the name of the one that it stands for."""

    def yields() -> Iterator[Any]:
        yield from ()

    def answers(*_: object) -> None: ...

    function: Callable[..., Any] = yields if setting == "map_over" else answers
    function.__name__ = name
    return function
