"""Graph -> Plan: from nodes as people write them to nodes as the rules need them, or one error with every problem.

The rules are those of docs/rules.md. `sketch.py` looks names up, `binding.py` settles parameters and maps, `relations.py`
says who starts and chooses, `validate.py` what a single node does wrong; here all of it becomes a plan.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphflow.bounds import AGENT_BOUNDS, problems
from graphflow.errors import InvalidGraph
from graphflow.expressions import Expression
from graphflow.graph.nodes import Graph, Node, NodeConfig, SnapshotControl
from graphflow.ids import NodeNumber, enumerate_nodes
from graphflow.planning.binding import bind
from graphflow.planning.describe import describe_node, plan_hash, plan_json, subgraph_retries, unwritable
from graphflow.planning.nesting import Inner, nested
from graphflow.planning.plan import Plan, PlanDecision, PlanFlow, PlanNode, PlanScope
from graphflow.planning.relations import forward_jumps, graph_problems, relate
from graphflow.planning.sketch import Sketch, SketchNode, sketch_graph
from graphflow.planning.topology import components, inverted, order, reachable
from graphflow.planning.validate import node_problems, subgraph_warnings
from graphflow.settings import default_max_concurrent_tasks, default_max_total_iterations

#: Graphs with the names of their nodes, the outermost first.
Path = tuple[tuple[str, Graph], ...]


def compile_plan(
    nodes: Sequence[Node],
    *,
    name: str,
    state_keys: Collection[str] = (),
    max_concurrent_tasks: int | None,
    max_total_iterations: int | None,
    deadline: float | None,
    auto_snapshot: bool = False,
    error_mailbox: str | None = None,
    path: Path = (),
    around: frozenset[str] = frozenset(),
) -> Plan:
    """The plan of a graph. `name` is the agent's, `state_keys` are the keys of the initial state, `deadline` is seconds.
    `auto_snapshot` has every node that runs something, and does not say otherwise, take snapshots. `path` are the graph
    itself and those around it, the outermost first, `around` the names of nodes and keys in these.

    Raises InvalidGraph with all problems of the graph at once (rule 13). The same nodes give the same plan; nothing is
    stored or run, and no function is called.
    """
    sketch = sketch_graph(nodes, state_keys, around)
    bind(sketch)
    above = relate(sketch)
    limits: dict[str, int | float | None] = {
        "max_concurrent_tasks": max_concurrent_tasks,
        "max_total_iterations": max_total_iterations,
        "deadline": deadline,
    }
    inner = _Inner(sketch, path, auto_snapshot)
    if found := [*_problems(nodes, sketch, limits), *inner.problems]:
        raise InvalidGraph(found)
    slots = max_concurrent_tasks or default_max_concurrent_tasks(
        node.node_config.max_concurrency for node in nodes
    )
    iterations = max_total_iterations or default_max_total_iterations(len(nodes))
    defaulted = {"max_concurrent_tasks": slots, "max_total_iterations": iterations}
    placed = order(
        [tuple(node.dependencies) for node in sketch.nodes], [tuple(node.choosers) for node in sketch.nodes]
    )
    descriptions = [
        describe_node(
            node.node,
            [sketch.nodes[number].name for number in sorted(node.dependencies)],
            inner.described(node),
        )
        for node in (sketch.nodes[number] for number in placed)
    ]
    try:
        digest = plan_hash(descriptions)
        name.encode()
    except UnicodeEncodeError:
        raise InvalidGraph([*_unwritable(name, descriptions)]) from None
    own_nodes = _plan_nodes(sketch, placed, auto_snapshot)
    scope = PlanScope(
        max_concurrent_tasks=slots,
        max_total_iterations=iterations,
        deadline=deadline,
        members=(1 << len(own_nodes)) - 1,
        within=(1 << len(own_nodes)) - 1,
        error_mailbox=error_mailbox,
        supervisors=tuple(
            sorted((node.index for node in own_nodes if node.supervises), key=lambda index: placed[index])
        ),
    )
    read_maps = _maps_in_expressions(own_nodes, sketch)
    plan_nodes, scopes = nested(own_nodes, scope, inner.placed(placed))
    for each in scopes:
        if each.depth == 1 and each.node is not None:
            first = (each.members & -each.members).bit_length() - 1
            read_maps |= inner.plans[placed[each.node]].maps_in_expressions << first
    return Plan(
        name=name,
        nodes=plan_nodes,
        hash=digest,
        json=plan_json(name, digest, descriptions, limits | defaulted, inner.limits),
        scopes=scopes,
        warnings=(*forward_jumps(sketch, above), *_unmet_limits(nodes, slots), *inner.warnings),
        by_name={node.name: node.index for node in plan_nodes},
        subgraphs=sum(node.bit for node in plan_nodes if node.inner is not None),
        settled_mask=sum(node.bit for node in plan_nodes if node.config.run_when == "settled"),
        maps_in_expressions=read_maps,
    )


def compile_graph(
    graph: Graph,
    *,
    name: str,
    state_keys: Collection[str],
    path: Path = (),
    around: frozenset[str] = frozenset(),
) -> Plan:
    """The plan of a graph with its own limits; as `compile_plan`."""
    return compile_plan(
        graph.in_order,
        name=name,
        state_keys=state_keys,
        max_concurrent_tasks=graph.max_concurrent_tasks,
        max_total_iterations=graph.max_total_iterations,
        deadline=graph.deadline,
        auto_snapshot=graph.auto_snapshot,
        error_mailbox=graph.error_mailbox,
        path=(*path, (name, graph)),
        around=around,
    )


class _Inner:
    """The graphs of the sub-graphs of one graph, each compiled by itself."""

    def __init__(self, sketch: Sketch, path: Path, auto_snapshot: bool) -> None:
        self.plans: dict[NodeNumber, Plan] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []
        #: By the paths of the sub-graphs.
        self.limits: dict[str, dict[str, Any]] = {}
        self._sketch = sketch
        self._described: dict[NodeNumber, list[dict[str, Any]]] = {}
        for node in sketch.nodes:
            if node.graph is not None:
                self._compile(node, node.graph, path, auto_snapshot)

    def _compile(self, node: SketchNode, graph: Graph, path: Path, auto_snapshot: bool) -> None:
        called = f"sub-graph {node.name!r}"
        if any(other is graph for _, other in path):
            names = " -> ".join((*(name for name, _ in path), node.name))
            self.problems.append(
                f"node {node.name!r}: its agent contains itself: {names}; let a decision lead back, or run it in a module"
            )
            return
        sketch = self._sketch
        around = sketch.around | sketch.numbers.keys() | sketch.outputs.keys() | sketch.state_keys
        try:
            plan = compile_graph(
                graph,
                name=node.name,
                state_keys=[copy.key for copy in node.inputs],
                path=path,
                around=frozenset(around),
            )
        except InvalidGraph as error:
            self.problems += [f"{called}: {problem}" for problem in error.problems]
            return
        maps = [other.name for other in plan.nodes if other.map is not None]
        if maps and not node.node.node_config.map_over:
            self.problems += [
                f"{called}: node {name!r}: a map inside of a sub-graph is not in this version; put the map into the graph "
                "around it"
                for name in maps
            ]
        self.plans[node.number] = plan
        stored = json.loads(plan.json)
        self._described[node.number] = stored["nodes"]
        self.limits[node.name] = stored["limits"]
        self.limits |= {
            f"{node.name}/{name}": limits for name, limits in stored.get("inner_limits", {}).items()
        }
        self.warnings += [f"{called}: {warning}" for warning in plan.warnings]
        self.warnings += subgraph_warnings(node.node)
        if graph.auto_snapshot and not auto_snapshot:
            self.warnings.append(
                f"{called}: auto_snapshot has no effect inside; set it on the agent that runs"
            )

    def described(self, node: SketchNode) -> list[dict[str, Any]]:
        return self._described.get(node.number, [])

    def placed(self, order: list[NodeNumber]) -> dict[NodeNumber, Inner]:
        """By the places of the sub-graphs in that order."""
        found = {}
        for place, number in enumerate_nodes(order):
            if number in self.plans:
                node = self._sketch.nodes[number]
                found[place] = self.plans[number], node.inputs, node.outputs
        return found


def _problems(
    nodes: Sequence[Node], sketch: Sketch, limits: Mapping[str, int | float | None]
) -> Iterator[str]:
    """Everything that is wrong with the graph and its limits."""
    if not nodes:
        yield "it has no nodes; add one with add_node or @agent.node"
    yield from problems(AGENT_BOUNDS, limits)
    for node in nodes:
        yield from (f"node {node.name!r}: {problem}" for problem in node_problems(node))
    yield from sketch.problems
    yield from graph_problems(sketch)


def _unmet_limits(nodes: Sequence[Node], slots: int) -> Iterator[str]:
    """Warnings where a node asks for more than its agent allows (rule 9)."""
    for node in nodes:
        if (asked := node.node_config.max_concurrency or 0) > slots:
            yield (
                f"node {node.name!r} asks for max_concurrency={asked}, but max_concurrent_tasks={slots} lets no more run "
                f"at a time; give the agent max_concurrent_tasks={asked}, or leave it out"
            )


def _unwritable(name: str, descriptions: Sequence[dict[str, Any]]) -> Iterator[str]:
    if problem := unwritable({"name": name}):
        yield f"the agent: {problem}"
    for description in descriptions:
        if problem := unwritable(description):
            yield f"node {description['name']!r}: {problem}"


def _plan_nodes(sketch: Sketch, placed: list[NodeNumber], auto_snapshot: bool) -> tuple[PlanNode, ...]:
    """The nodes in the order of `placed`, numbered by their place in it."""
    place = {number: index for index, number in enumerate_nodes(placed)}
    sketched = [sketch.nodes[number] for number in placed]

    def places(numbers: Collection[NodeNumber]) -> tuple[NodeNumber, ...]:
        return tuple(sorted(place[number] for number in numbers))

    awaited = [places({*node.dependencies, *node.choosers}) for node in sketched]
    ancestors = reachable(awaited)
    followers = inverted(awaited)
    descendants = reachable(followers)
    ends = _end_nodes(sketched, place, ancestors)
    lent_to = _borrowers(sketched, place, pipelined=False)
    streams_to = _borrowers(sketched, place, pipelined=True)
    counted = _counted_nodes(sketch)
    return tuple(
        PlanNode(
            index=index,
            name=node.name,
            type=node.node.type,
            config=_config(node),
            modules=tuple(node.modules),
            flow=_placed_flow(sketch, node.flow, place),
            returns=node.returns and (frozenset(places(node.returns[0])), node.returns[1]),
            condition=node.condition,
            dependencies=places(node.dependencies),
            dependents=places(node.dependents),
            choosers=places(node.choosers),
            named_by_supervisor=node.named_by_supervisor,
            starts=node.starts,
            supervises=node.supervises,
            is_end=index in ends,
            ancestors=ancestors[index],
            descendants=descendants[index],
            on_error=None if node.on_error is None else place[node.on_error],
            map=node.map
            and replace(
                node.map, source_node=None if node.map.source_node is None else place[node.map.source_node]
            ),
            handles=places(node.handles),
            only_chosen=node.only_chosen,
            needs=sum(1 << place[number] for number in node.dependencies),
            awaited_by=sum(1 << follower for follower in followers[index]),
            lent_to=lent_to.get(node.number, 0),
            streams_to=streams_to.get(node.number, 0),
            snapshot=_snapshot(node, auto_snapshot),
            is_counted=node.number in counted,
        )
        for index, node in enumerate_nodes(sketched)
    )


def _config(node: SketchNode) -> NodeConfig:
    config = node.node.node_config
    if node.graph is None:
        return config
    return config.model_copy(update={"max_retries": subgraph_retries(config)})


def _borrowers(
    sketched: list[SketchNode], place: dict[NodeNumber, NodeNumber], *, pipelined: bool
) -> dict[NodeNumber, int]:
    """Number of each map whose records others go through -> mask of these, or of the pipelined ones among them."""
    masks: dict[NodeNumber, int] = {}
    for node in sketched:
        if node.map is None or not node.map.over_map or node.map.source_node is None:
            continue
        if node.map.pipelined or not pipelined:
            lender = node.map.source_node
            masks[lender] = masks.get(lender, 0) | 1 << place[node.number]
    return masks


def _counted_nodes(sketch: Sketch) -> set[int]:
    """The numbers of the nodes whose starts count (rule 9): of those that only decide, which come before anything else
    starts, the ones that may start again through nothing but each other."""
    deciding = {node.number for node in sketch.nodes if node.is_flow_control}
    # A supervisor may decide whenever nothing is active.
    supervisors = {node.number for node in sketch.nodes if node.supervises}
    edges = [
        sorted(deciding & {*node.targets, *node.dependents, node.on_error, *supervisors})
        if node.number in deciding
        else []
        for node in sketch.nodes
    ]
    again = {
        number
        for component in components(edges)
        for number in component
        if len(component) > 1 or number in edges[number]
    }
    return {
        node.number
        for node in sketch.nodes
        if not node.is_pure_flow and (node.number not in deciding or node.number in again)
    }


def _snapshot(node: SketchNode, auto_snapshot: bool) -> SnapshotControl:
    if node.node.snapshot is not None:
        return node.node.snapshot
    return SnapshotControl.ALWAYS if auto_snapshot and node.modules else SnapshotControl.NEVER


def _end_nodes(
    sketched: list[SketchNode], place: dict[NodeNumber, NodeNumber], ancestors: list[int]
) -> set[NodeNumber]:
    """The places of the end nodes, in the sense of rule 7.

    An end node is one from which no other node but flow control can be reached through dependencies and decisions,
    decisions back to an ancestor left out; if there is none, every node is one. Flow control is no end node itself; an
    on_error node is, so that a failure that was handled makes the run PARTIAL (rule 8).
    """
    edges = []
    for index, node in enumerate_nodes(sketched):
        jumps = set() if node.supervises else {place[number] for number in node.targets}
        onward = {jump for jump in jumps if not ancestors[index] >> jump & 1}
        edges.append(sorted(onward | {place[number] for number in node.dependents}))
    work = sum(1 << index for index, node in enumerate_nodes(sketched) if not node.is_flow_control)
    ends = {
        index
        for index, below in enumerate_nodes(reachable(edges))
        if not below & work & ~(1 << index) and work >> index & 1
    }
    return ends or set(place.values())


def _placed_flow(
    sketch: Sketch, flow: PlanFlow | None, place: dict[NodeNumber, NodeNumber]
) -> PlanFlow | None:
    if flow is None:
        return None

    def placed(decision: PlanDecision) -> PlanDecision:
        # Supervisors decide by themselves; to name one starts nothing (rule 6).
        targets = (number for number in decision.targets if not sketch.nodes[number].supervises)
        return replace(decision, targets=tuple(place[number] for number in targets))

    default = flow.default and placed(flow.default)
    return replace(flow, decisions=tuple(map(placed, flow.decisions)), default=default)


def _maps_in_expressions(nodes: Sequence[PlanNode], sketch: Sketch) -> int:
    read: set[str] = set()
    for copy in (copy for sketched in sketch.nodes for copy in sketched.inputs):
        read |= copy.value.names | copy.value.node_names
    for node in nodes:
        expressions = [node.condition, node.map.where if node.map else None]
        expressions += [decision.condition for decision in node.flow.decisions] if node.flow else []
        for expression in expressions:
            if isinstance(expression, Expression):
                read |= expression.names | expression.node_names
    return sum(node.bit for node in nodes if node.lists_results and node.name in read)
