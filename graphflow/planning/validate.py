"""What is wrong with one node, whatever the rest of the graph looks like? (Rule 13, first half.)

Problems are phrases that follow "node 'x': ". What concerns several nodes is asked in `relations.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from graphflow.bounds import MODULE_BOUNDS, NODE_BOUNDS, problems
from graphflow.executors.table import EXECUTORS
from graphflow.expressions import EXPRESSION_WORDS
from graphflow.graph.flow import FlowControlModule
from graphflow.graph.functions import plainness_problem
from graphflow.graph.modules import END, AgentModule, FunctionModule, ModuleType
from graphflow.graph.nodes import Node, NodeConfig, SubgraphModule
from graphflow.ids import NAME_PATTERN
from graphflow.planning.annotations import process_problem
from graphflow.settings import DEFAULT_TIMEOUT_SECONDS

#: Names that mean something else in parameters, decisions and expressions.
RESERVED_NAMES = (
    frozenset({END, "task", "cache", "item", "index", "semaphore", "nodes", "errors"}) | EXPRESSION_WORDS
)

NOT_IN_THIS_VERSION = "is not in this version"


def node_problems(node: Node) -> Iterator[str]:
    """Everything that can be said against a node by looking at it alone."""
    yield from _name_problems(node.name)
    yield from _config_problems(node.node_config)
    yield from _shape_problems(node)
    for module in node.modules:
        yield from _module_problems(module)
    if any(isinstance(module, SubgraphModule) for module in node.modules):
        yield from _subgraph_problems(node)
    elif ModuleType.SUBGRAPH in (node.type, *(module.type for module in node.modules)):
        yield "ModuleType.SUBGRAPH is for a node whose module is an agent; put the agent into modules="
    else:
        for setting in ("inputs", "outputs"):
            if isinstance(getattr(node.node_config, setting), dict):
                yield f"{setting} as a dict is for sub-graphs; list the state keys"


def subgraph_warnings(node: Node) -> Iterator[str]:
    """Settings of a sub-graph's node that have no effect: only module runs have slots, executors and crashes."""
    config, default = node.node_config, NodeConfig()
    for setting in ("max_concurrency", "max_crashes", "executor", "parallel"):
        if getattr(config, setting) != getattr(default, setting):
            yield f"node {node.name!r}: {setting} has no effect on a sub-graph; set it on the nodes inside"


def _subgraph_problems(node: Node) -> Iterator[str]:
    if len(node.modules) > 1:
        yield "a node with a sub-graph has no other modules; put them into nodes of their own"
    if node.node_config.map_over is not None:
        yield f"a mapped sub-graph {NOT_IN_THIS_VERSION}; map over the items in a node inside, or run the agent in a module"
    for module in node.modules:
        if module.config.timeout != DEFAULT_TIMEOUT_SECONDS:
            yield "timeout is for modules; give the agent inside a deadline"


def _name_problems(name: str) -> Iterator[str]:
    if not NAME_PATTERN.fullmatch(name):
        yield "a name consists of 1 to 100 letters, digits, '_', '.' or '-'; give it another with name="
    elif name in RESERVED_NAMES:
        yield "this name is reserved, since it means something else in expressions or parameters; choose another"


def _config_problems(config: NodeConfig) -> Iterator[str]:
    yield from problems(NODE_BOUNDS, {setting: getattr(config, setting) for setting in NODE_BOUNDS})
    if config.executor not in EXECUTORS:
        there = " and ".join(map(repr, EXECUTORS))
        yield f"executor {config.executor!r} {NOT_IN_THIS_VERSION}; there is {there}"
    if config.resources:
        yield f"resources {NOT_IN_THIS_VERSION}: no executor has any to give; drop {sorted(config.resources)}"
    yield from _map_problems(config)
    paths = [("map_over", config.map_over)] if isinstance(config.map_over, str) else []
    paths += [("inputs", key) for key in config.inputs] + [("outputs", key) for key in config.outputs]
    for setting, key in paths:
        if key.startswith("$"):
            yield f"{setting} {key!r}: JSONPath {NOT_IN_THIS_VERSION}; name a state key"


def _map_problems(config: NodeConfig) -> Iterator[str]:
    source: object = config.map_over
    if inspect.isgenerator(source) or inspect.isasyncgen(source):
        yield f"map_over is the generator that {source.__name__}() gave; give it the function, without calling it"
    elif not (source is None or isinstance(source, str) or callable(source)):
        kind = type(source).__name__
        yield f"map_over is a {kind}; name the node or state key that holds the items, or give a generator function"
    if config.map_over is None:
        if config.where is not None:
            yield "where filters the items of a map, but map_over is not set"
        for setting in ("pipelined", "batch_size", "min_success", "reduce"):
            if getattr(config, setting) not in (None, False):
                yield f"{setting} is for the items of a map, but map_over is not set"
    if config.min_success is not None and config.on_item_error == "fail":
        yield "min_success counts items that may fail, but on_item_error='fail' lets none; drop one of the two"
    if config.reduce is not None and (problem := plainness_problem(config.reduce)):
        yield f"reduce {problem} of two results"


def _shape_problems(node: Node) -> Iterator[str]:
    modules = node.modules
    if not modules:
        yield "has no modules; give it at least one to run"
        return
    flows = [module for module in modules if isinstance(module, FlowControlModule)]
    if len(flows) > 1:
        yield "has several FlowControlModules; put their decisions into one"
    elif flows and modules[-1] is not flows[0]:
        yield "a FlowControlModule must be the last module, since it decides when the others are done"
    if any(module.to for module in modules[:-1]):
        yield "only the last module may return decisions (to=)"
    if modules[-1].to and node.node_config.parallel and len(modules) > 1:
        yield "a module that returns decisions (to=) cannot run in parallel with others; drop parallel=True"
    if node.node_config.map_over is None:
        return
    if len(modules) > 1:
        yield f"a map node has one module, this one has {len(modules)}; put the others into nodes of their own"
    if flows or any(module.to for module in modules):
        yield "a map node cannot decide; put the decision into a node that depends on it"


def _module_problems(module: AgentModule) -> Iterator[str]:
    called = f"module {module.name!r}"
    for problem in problems(MODULE_BOUNDS, {"timeout": module.config.timeout}):
        yield f"{called}: {problem}"
    if module.config.middlewares:
        yield f"{called}: middlewares {NOT_IN_THIS_VERSION}"
    if isinstance(module, FlowControlModule):
        if module.to:
            yield f"{called}: to= is for modules that return decisions; this one has them in flow_config"
        return
    if isinstance(module, FunctionModule | SubgraphModule):
        return
    process = type(module).process
    kind = type(module).__name__
    if process is AgentModule.process:
        yield f"{called}: {kind} does not define `async def process(self, cache, semaphore)`"
    elif inspect.isasyncgenfunction(process):
        yield f"{called}: a process that yields (an async generator) {NOT_IN_THIS_VERSION}; return the result"
    elif not inspect.iscoroutinefunction(inspect.unwrap(process)):
        yield f"{called}: {kind}.process is a plain function; make it `async def process(self, cache, semaphore)`"
    elif mistake := process_problem(process, kind):
        yield f"{called}: {mistake}"
