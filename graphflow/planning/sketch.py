"""A graph on its way to a plan: names become numbers, and what cannot be used is noted as a problem.

Numbers here are places in the order of addition. `binding.py` adds what function parameters and `map_over` ask for,
`relations.py` who starts and who chooses whom, `compile.py` makes the plan.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from graphflow.errors import ExpressionError
from graphflow.expressions import Expression, parse_expression
from graphflow.graph.flow import FlowControlConfig, FlowControlModule, FlowDecision, names_of
from graphflow.graph.modules import END, AgentModule, FunctionModule, ModuleType
from graphflow.graph.nodes import Graph, Node, SubgraphModule
from graphflow.ids import NodeNumber, nearest
from graphflow.planning.plan import PlanCopy, PlanDecision, PlanFlow, PlanMap, PlanModule


@dataclass(slots=True)
class SketchNode:
    """One node with its names looked up. `relations.py` fills in what follows from other nodes, `dependents` and below."""

    number: NodeNumber
    node: Node
    #: Number of a dependency -> the parameter or setting that asks for it; "" for `dependencies`.
    dependencies: dict[NodeNumber, str] = field(default_factory=dict)
    modules: list[PlanModule] = field(default_factory=list)
    flow: PlanFlow | None = None
    returns: tuple[frozenset[NodeNumber], bool] | None = None
    condition: Expression | None = None
    on_error: NodeNumber | None = None
    map: PlanMap | None = None
    #: Of a sub-graph: its graph, what it is given, what it gives.
    graph: Graph | None = None
    inputs: tuple[PlanCopy, ...] = ()
    outputs: tuple[PlanCopy, ...] = ()
    dependents: list[NodeNumber] = field(default_factory=list)
    #: Nodes whose on_error it is.
    handles: list[NodeNumber] = field(default_factory=list)
    #: Stands apart and decides whenever the run is idle (rule 6).
    supervises: bool = False
    #: Waits to be chosen by these (rule 1).
    choosers: list[NodeNumber] = field(default_factory=list)
    named_by_supervisor: bool = False
    starts: bool = False

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def only_chosen(self) -> bool:
        return self.node.start is False

    @property
    def is_pure_flow(self) -> bool:
        return self.flow is not None and not self.modules

    @property
    def is_flow_control(self) -> bool:
        """Decides and does nothing else: flow control as data alone, or a module of that type."""
        if self.is_pure_flow or self.node.type is ModuleType.FLOW_CONTROL:
            return True
        modules = self.node.modules
        return bool(modules) and all(module.type is ModuleType.FLOW_CONTROL for module in modules)

    @property
    def targets(self) -> set[NodeNumber]:
        """Everything its decisions, its default or what it returns may name, END left out."""
        found = set(self.returns[0]) if self.returns else set()
        if self.flow is not None:
            for decision in self.flow.decisions:
                found.update(decision.targets)
            if self.flow.default is not None:
                found.update(self.flow.default.targets)
        return found


@dataclass(slots=True)
class Sketch:
    """All nodes of one name each, and every problem found so far."""

    nodes: list[SketchNode]
    numbers: dict[str, NodeNumber]
    #: State key -> numbers of the nodes that declare it in `outputs`.
    outputs: dict[str, list[NodeNumber]]
    state_keys: frozenset[str]
    problems: list[str]
    #: Of the graph of a sub-graph: names of nodes and keys in the graphs around it.
    around: frozenset[str] = frozenset()

    def refuse(self, node: SketchNode, problem: str) -> None:
        self.problems.append(f"node {node.name!r}: {problem}")

    def number_of(self, name: str, node: SketchNode, role: str) -> NodeNumber | None:
        """The number of the node called `name`; None, and a problem, if there is none."""
        number = self.numbers.get(name)
        if number is None:
            self.refuse(
                node, f"unknown {role} {name!r}{self._across_border(name) or nearest(name, self.numbers)}"
            )
        return number

    def _across_border(self, name: str) -> str:
        """The end of a message about a name on the other side of a sub-graph's border; empty if it is none."""
        outer = name.partition("/")[0]
        if outer != name and outer in self.numbers and self.nodes[self.numbers[outer]].graph is not None:
            return f", which is inside the sub-graph {outer!r}: name the sub-graph, not a node in it"
        if name in self.around:
            return (
                ", which is outside of this sub-graph: let the sub-graph's own node name it, or give its result to the "
                "sub-graph by inputs="
            )
        return ""

    def name_of(self, number: NodeNumber) -> str:
        return repr(self.nodes[number].name)


def sketch_graph(
    nodes: Sequence[Node], state_keys: Collection[str], around: frozenset[str] = frozenset()
) -> Sketch:
    """Look up all that nodes say by name. A name that was used before is a problem and its node left out. `around` are
    the names in the graphs around this one."""
    sketch = Sketch([], {}, {}, frozenset(state_keys), [], around)
    for node in nodes:
        if node.name in sketch.numbers:
            sketch.problems.append(
                f"node {node.name!r}: this name is used twice; every node needs a name of its own"
            )
            continue
        number = sketch.numbers[node.name] = NodeNumber(len(sketch.nodes))
        graphs = [module.graph for module in node.modules if isinstance(module, SubgraphModule)]
        sketch.nodes.append(SketchNode(number, node, graph=graphs[0] if graphs else None))
        for key in node.node_config.outputs:
            sketch.outputs.setdefault(key, []).append(number)

    for sketched in sketch.nodes:
        _read_dependencies(sketch, sketched)
        _read_config(sketch, sketched)
        for module in sketched.node.modules:
            _read_module(sketch, sketched, module)
    return sketch


def parsed(
    sketch: Sketch, node: SketchNode, where: str, text: str | None, extra: Sequence[str] = ()
) -> Expression | None:
    """The expression, or None if there is none or it does not parse."""
    if text is None:
        return None
    try:
        expression = parse_expression(text, extra)
    except ExpressionError as error:
        sketch.refuse(node, f"{where}: {error}")
        return None
    for name in sorted((expression.node_names & sketch.around) - sketch.numbers.keys()):
        sketch.refuse(
            node, f"{where} reads nodes.{name}, which is outside of this sub-graph: give it by inputs="
        )
    return expression


def _read_dependencies(sketch: Sketch, node: SketchNode) -> None:
    for name in node.node.dependencies:
        number = sketch.number_of(name, node, "dependency")
        if number == node.number:
            sketch.refuse(node, "depends on itself; to run it again, let a decision name it")
        elif number is not None:
            node.dependencies[number] = ""


def _read_config(sketch: Sketch, node: SketchNode) -> None:
    config = node.node.node_config
    node.condition = parsed(sketch, node, "condition", config.condition)
    if config.on_error is None:
        return
    if config.on_error == node.name:
        sketch.refuse(node, "on_error names the node itself; max_retries is what tries again")
        return
    node.on_error = sketch.number_of(config.on_error, node, "on_error node")


def _read_module(sketch: Sketch, node: SketchNode, module: AgentModule) -> None:
    if isinstance(module, FlowControlModule):
        node.flow = _read_flow(sketch, node, module.flow_config)
        return
    bindings = () if isinstance(module, FunctionModule) else None
    node.modules.append(PlanModule(module, bindings, timeout=module.config.timeout))
    if module.to:
        numbers = (sketch.number_of(name, node, "name in to=") for name in module.to if name != END)
        node.returns = frozenset(number for number in numbers if number is not None), END in module.to


def _read_flow(sketch: Sketch, node: SketchNode, config: FlowControlConfig) -> PlanFlow:
    decisions = tuple(
        _read_decision(sketch, node, decision, f"decision {place}")
        for place, decision in enumerate(config.decisions, 1)
    )
    default = None
    if names_of(config.default):
        default = _read_decision(sketch, node, FlowDecision(next_node=config.default or []), "default")
    conditions = [decision.condition for decision in decisions if decision.condition is not None]
    return PlanFlow(
        decisions=decisions,
        default=default,
        select_first=config.select == "first",
        names=frozenset().union(*(condition.names for condition in conditions)),
        node_names=frozenset().union(*(condition.node_names for condition in conditions)),
    )


def _read_decision(sketch: Sketch, node: SketchNode, decision: FlowDecision, where: str) -> PlanDecision:
    if not decision.targets:
        sketch.refuse(node, f"{where}: next_node names nothing; name a node or END")
    numbers = (sketch.number_of(name, node, f"target of {where}") for name in decision.targets if name != END)
    label = "default" if where == "default" else decision.condition or "else"
    return PlanDecision(
        targets=tuple(dict.fromkeys(number for number in numbers if number is not None)),
        ends=END in decision.targets,
        condition=parsed(sketch, node, where, decision.condition),
        clears=tuple(decision.condition_variables),
        repeat=decision.repeat,
        label=label,
    )
