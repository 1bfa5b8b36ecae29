"""A graph as plain JSON, for other processes and pictures, and the hash that says whether two graphs are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from graphflow.graph.flow import FlowControlConfig, FlowControlModule, names_of
from graphflow.graph.functions import function_name
from graphflow.graph.modules import AgentModule, FunctionModule, ModuleConfig
from graphflow.graph.nodes import Node, NodeConfig, SubgraphModule

#: Hex digits of a plan's hash.
HASH_LENGTH = 12

_DEFAULT_MODULE_CONFIG = ModuleConfig()
#: Settings of a node of which, as of a body, no more than the name counts if they are functions.
MAY_BE_FUNCTIONS = ("where", "map_over", "reduce")
#: What stands before the name of such a function.
FUNCTION_MARK = "function "


def describe_node(
    node: Node, dependencies: list[str], inner: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """What the rules ask about a node, as JSON values; settings that have their default are left out.

    `dependencies` are the names of all nodes that it depends on, those of its parameters included; `inner` are the
    described nodes of a sub-graph. Bodies, metadata and `context` say nothing about how a run goes.
    """
    description: dict[str, Any] = {"name": node.name, "type": node.type.value}
    if dependencies:
        description["dependencies"] = dependencies
    if node.start is not None:
        description["start"] = node.start
    config = node.node_config.model_dump(exclude_defaults=True, exclude=set(MAY_BE_FUNCTIONS))
    for name in MAY_BE_FUNCTIONS:
        value = getattr(node.node_config, name)
        if value is not None:
            config[name] = value if isinstance(value, str) else FUNCTION_MARK + function_name(value)
    if any(isinstance(module, SubgraphModule) for module in node.modules):
        # Its default is another than that of modules.
        config["max_retries"] = subgraph_retries(node.node_config)
    if config:
        description["config"] = config
    description["modules"] = [_describe_module(module) for module in node.modules]
    for module, described in zip(node.modules, description["modules"], strict=True):
        if isinstance(module, SubgraphModule):
            described["graph"] = list(inner)
    return description


def subgraph_retries(config: NodeConfig) -> int:
    """Attempts of a sub-graph: they multiply with the depth, so it is one unless the node says otherwise."""
    return config.max_retries if "max_retries" in config.model_fields_set else 1


def inner_nodes(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The described nodes of a sub-graph's graph; none if it is no sub-graph."""
    return [node for module in description["modules"] for node in module.get("graph", ())]


def is_map(description: Mapping[str, Any]) -> bool:
    """Whether a described node is a map."""
    return "map_over" in description.get("config", {})


def lists_results(description: Mapping[str, Any]) -> bool:
    """Whether a described node is a map whose result is the list of its records."""
    return is_map(description) and "reduce" not in description.get("config", {})


def unwritable(description: Mapping[str, Any]) -> str | None:
    """Why a described node cannot be stored; None if it can be."""
    try:
        _compact(description).encode()
    except UnicodeEncodeError as error:
        text = error.object[max(0, error.start - 20) : error.end + 20]
        return f"{text!r} in its names and settings holds a lone surrogate, which UTF-8 has not"
    return None


def plan_hash(nodes: list[dict[str, Any]]) -> str:
    """First hex digits of the SHA-256 over the canonical JSON of the described nodes."""
    return sha256(_compact(nodes, sort_keys=True).encode()).hexdigest()[:HASH_LENGTH]


def plan_json(
    name: str,
    hash_: str,
    nodes: list[dict[str, Any]],
    limits: dict[str, Any],
    inner_limits: dict[str, dict[str, Any]],
) -> str:
    """`inner_limits` are those of the graphs of sub-graphs, by the paths of these."""
    inside = {"inner_limits": inner_limits} if inner_limits else {}
    return _compact({"name": name, "hash": hash_, "limits": limits, **inside, "nodes": nodes})


def _describe_module(module: AgentModule) -> dict[str, Any]:
    kind = "function" if isinstance(module, FunctionModule) else type(module).__name__
    description: dict[str, Any] = {"name": module.name, "class": kind}
    if module.to:
        description["to"] = module.to
    if module.config != _DEFAULT_MODULE_CONFIG and not isinstance(module, FlowControlModule):
        if module.config.timeout != _DEFAULT_MODULE_CONFIG.timeout:
            description["timeout"] = module.config.timeout
        if module.config.stop_on_success:
            description["stop_on_success"] = True
    if module.input_mailboxes:
        description["input_mailboxes"] = module.input_mailboxes
    if module.output_mailbox is not None:
        description["output_mailbox"] = module.output_mailbox
    if isinstance(module, FlowControlModule):
        description["flow"] = _describe_flow(module.flow_config)
    return description


def _describe_flow(config: FlowControlConfig) -> dict[str, Any]:
    decisions = []
    for decision in config.decisions:
        entry: dict[str, Any] = {"to": list(decision.targets)}
        if decision.condition is not None:
            entry["condition"] = decision.condition
        if decision.condition_variables:
            entry["clears"] = decision.condition_variables
        if decision.repeat:
            entry["repeat"] = True
        decisions.append(entry)
    description: dict[str, Any] = {"decisions": decisions}
    if config.default is not None:
        description["default"] = list(names_of(config.default))
    if config.select != "all":
        description["select"] = config.select
    return description


def _compact(value: Any, *, sort_keys: bool = False) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=sort_keys)
