"""What fills each parameter of a function, and where does a map get its items?

A parameter or a `map_over` that names a node, or a state key that a node declares in `outputs`, makes that node a
dependency. What nothing fills is a problem when the graph is compiled: a typo must not become a root that starts first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from graphflow.expressions import Expression
from graphflow.graph.functions import (
    FunctionShape,
    Parameter,
    function_name,
    inspect_function,
    plainness_problem,
    wraps_async,
)
from graphflow.graph.modules import FunctionModule
from graphflow.ids import nearest
from graphflow.planning.annotations import parameter_problem, result_problem
from graphflow.planning.plan import REQUIRED, Binding, PlanCopy, PlanGenerator, PlanMap, PlanModule, Source
from graphflow.planning.sketch import Sketch, SketchNode, parsed

#: Parameters with a meaning of their own, in every node.
GIVEN = {"task": Source.TASK, "cache": Source.CACHE, "semaphore": Source.SEMAPHORE}

#: What fills parameters without a look at the run's state.
_PLAIN_SOURCES = frozenset({Source.ITEM, Source.INDEX, Source.DEFAULT})
#: What gives a parameter a value that was stored.
_STORED_SOURCES = frozenset({Source.ITEM, Source.NODE, Source.KEY})


def bind(sketch: Sketch) -> None:
    """Settle every parameter, every map and what sub-graphs are given, and add the dependencies that follow from them."""
    for node in sketch.nodes:
        if node.graph is not None:
            node.inputs = tuple(_copies(sketch, node, "inputs", node.node.node_config.inputs))
            node.outputs = tuple(_copies(sketch, node, "outputs", node.node.node_config.outputs))
            _depend_on_inputs(sketch, node)
        source = node.node.node_config.map_over
        if isinstance(source, str) or callable(source):
            node.map = _map(sketch, node, source)
        node.modules = [_bound(sketch, node, module) for module in node.modules]


def _copies(
    sketch: Sketch, node: SketchNode, setting: str, values: list[str] | dict[str, str]
) -> Iterable[PlanCopy]:
    """What crosses the border of a sub-graph; a key in a list has the same name on both sides."""
    pairs = values if isinstance(values, dict) else {key: key for key in values}
    for key, text in pairs.items():
        if (expression := parsed(sketch, node, f"{setting} {key!r}", text)) is not None:
            yield PlanCopy(key, expression, expression.names == {text.strip()})


def _depend_on_inputs(sketch: Sketch, node: SketchNode) -> None:
    for copy in node.inputs:
        for name in sorted(copy.value.names | copy.value.node_names):
            is_key = name in copy.value.names
            numbers = list(sketch.outputs.get(name, ())) if is_key else []
            numbers += [sketch.numbers[name]] if name in sketch.numbers else []
            for number in numbers:
                if number != node.number:
                    node.dependencies.setdefault(number, f"inputs {copy.key!r}")


def _bound(sketch: Sketch, node: SketchNode, module: PlanModule) -> PlanModule:
    if not isinstance(module.module, FunctionModule):
        return module
    shape = inspect_function(module.module.function)
    for problem in shape.problems:
        sketch.refuse(node, f"function {shape.name!r} {problem}")
    if not wraps_async(module.module.function) and any(
        parameter.name == "cache" for parameter in shape.parameters
    ):
        sketch.refuse(
            node, f"function {shape.name!r} asks for 'cache', which it would have to await; make it async def"
        )
    bindings = tuple(_bindings(sketch, node, shape))
    _check_annotations(sketch, node, module.module.function, shape, bindings)
    is_plain = all(binding.source in _PLAIN_SOURCES for binding in bindings)
    return replace(module, bindings=bindings, is_async=shape.is_async, is_plain=is_plain)


def _check_annotations(
    sketch: Sketch,
    node: SketchNode,
    function: Callable[..., Any],
    shape: FunctionShape,
    bindings: Iterable[Binding],
    *,
    yields: bool = False,
) -> None:
    """Refuse what the function says of its result and of the stored values that it is given, where none can be stored."""
    where = "map_over: " if yields else ""
    problems = [result_problem(function, shape.name, yields=yields)]
    problems += [
        parameter_problem(function, shape.name, binding.parameter)
        for binding in bindings
        if binding.source in _STORED_SOURCES
    ]
    for problem in filter(None, problems):
        sketch.refuse(node, f"{where}{problem}")


def _bindings(sketch: Sketch, node: SketchNode, shape: FunctionShape) -> Iterable[Binding]:
    parameters = shape.parameters
    if node.node.node_config.map_over is not None:
        if not parameters or parameters[0].name in ("cache", "semaphore"):
            sketch.refuse(
                node, f"function {shape.name!r} must take the item of the map as its first parameter"
            )
        else:
            yield Binding(parameters[0].name, Source.ITEM)
            parameters = parameters[1:]
    for parameter in parameters:
        if (binding := _binding(sketch, node, shape, parameter)) is not None:
            yield binding


def _binding(sketch: Sketch, node: SketchNode, shape: FunctionShape, parameter: Parameter) -> Binding | None:
    name = parameter.name
    default = parameter.default if parameter.has_default else REQUIRED
    config = node.node.node_config
    if name in GIVEN:
        return Binding(name, GIVEN[name])
    if name == "index" and config.map_over is not None:
        return Binding(name, Source.INDEX)
    if name in sketch.numbers and name != node.name:
        node.dependencies.setdefault(sketch.numbers[name], f"parameter {name!r}")
        return Binding(name, Source.NODE, name, default)
    producers = [number for number in sketch.outputs.get(name, ()) if number != node.number]
    if producers or name in sketch.state_keys or name in config.inputs:
        for number in producers:
            node.dependencies.setdefault(number, f"parameter {name!r}")
        return Binding(name, Source.KEY, name, default)
    if not parameter.has_default:
        sketch.refuse(node, _unfilled(sketch, node, shape, name))
        return None
    # The node's own output, from an earlier visit.
    if name in config.outputs:
        return Binding(name, Source.KEY, name, default)
    return Binding(name, Source.DEFAULT, name, default)


def _unfilled(sketch: Sketch, node: SketchNode, shape: FunctionShape, name: str) -> str:
    where = f"parameter {name!r} of function {shape.name!r}"
    if name == node.name:
        return f"{where} names the node itself; to read the result of its last visit, list {name!r} in inputs"
    if name in node.node.node_config.outputs:
        return f"{where} is written by this node alone, so the first visit finds nothing; give it a default"
    if name in ("item", "index"):
        return f"{where} is filled in a map node only; set map_over, or rename it"
    if name in sketch.around:
        return (
            f"nothing inside the sub-graph fills {where}; give it {name!r} by inputs= of the sub-graph's node"
        )
    known = {*sketch.numbers, *sketch.outputs, *sketch.state_keys, *node.node.node_config.inputs, *GIVEN} - {
        node.name
    }
    return (
        f"nothing fills {where}{nearest(name, known)}"
        " (a state key that no node declares in outputs must be listed in inputs)"
    )


def _map(sketch: Sketch, node: SketchNode, source: str | Callable[..., Any]) -> PlanMap | None:
    """How the node comes by its items, with what it makes of their results."""
    config = node.node.node_config
    if config.reduce is not None and (problem := result_problem(config.reduce, function_name(config.reduce))):
        sketch.refuse(node, f"reduce: {problem}")
    found = _source(sketch, node, source)
    if config.pipelined and found is not None and not found.borrows:
        sketch.refuse(
            node,
            "pipelined is for a map over the results of another map, without where; map over one, or drop pipelined",
        )
    return found and replace(
        found,
        pipelined=config.pipelined,
        batch_size=config.batch_size,
        min_success=config.min_success,
        reduce=config.reduce,
    )


def _source(sketch: Sketch, node: SketchNode, source: str | Callable[..., Any]) -> PlanMap | None:
    config = node.node.node_config
    where: str | Expression | Callable[[Any], bool] | None = config.where
    if callable(where) and (problem := plainness_problem(where)):
        sketch.refuse(node, f"where {problem} of the item")
    if isinstance(where, str):
        where = parsed(sketch, node, "where", where, extra=("item", "index"))
    assert not isinstance(where, str)
    fail_fast = config.on_item_error == "fail"
    if not isinstance(source, str):
        generator = _generator(sketch, node, source)
        return PlanMap(None, function_name(source), where, fail_fast, generator)
    if source == node.name:
        sketch.refuse(node, "map_over names the node itself; name the node or state key that holds the items")
        return None
    if source in sketch.numbers:
        number = sketch.numbers[source]
        node.dependencies.setdefault(number, f"map_over={source!r}")
        other = sketch.nodes[number].node.node_config
        over_map = other.map_over is not None and other.reduce is None
        return PlanMap(number, source, where, fail_fast, over_map=over_map)

    producers = [number for number in sketch.outputs.get(source, ()) if number != node.number]
    for number in producers:
        node.dependencies.setdefault(number, f"map_over={source!r}")
    declared = bool(producers) or source in sketch.state_keys or source in config.inputs
    if not declared and not source.startswith("$") and not _may_be_set(sketch, node):
        known = {*sketch.numbers, *sketch.outputs, *sketch.state_keys} - {node.name}
        sketch.refuse(
            node,
            f"map_over={source!r} is neither a node nor a known state key{nearest(source, known)}"
            " (declare a key in outputs= of the node that sets it)",
        )
    return PlanMap(None, source, where, fail_fast)


def _generator(sketch: Sketch, node: SketchNode, function: Callable[..., Any]) -> PlanGenerator:
    shape = inspect_function(function, yields=True)
    for problem in shape.problems:
        sketch.refuse(node, f"map_over: function {shape.name!r} {problem}")
    bindings: list[Binding] = []
    for parameter in shape.parameters:
        if parameter.name == "start":
            bindings.append(Binding("start", Source.START))
        elif parameter.name in ("cache", "semaphore", "index"):
            sketch.refuse(
                node,
                f"map_over: function {shape.name!r} asks for {parameter.name!r}, which is there for module runs only; "
                "name the state keys and nodes that it reads as parameters",
            )
        elif (binding := _binding(sketch, node, shape, parameter)) is not None:
            bindings.append(binding)
    _check_annotations(sketch, node, function, shape, bindings, yields=True)
    return PlanGenerator(function, tuple(bindings), shape.is_async)


def _may_be_set(sketch: Sketch, node: SketchNode) -> bool:
    """Whether a module class may have set an undeclared key before this node starts.

    What module classes write is not known; it is let pass where the node starts after something else.
    """
    if not any(
        module.bindings is None for other in sketch.nodes for module in other.modules if other is not node
    ):
        return False
    return (
        bool(node.node.dependencies)
        or node.only_chosen
        or any(node.number in other.targets or other.on_error == node.number for other in sketch.nodes)
    )
