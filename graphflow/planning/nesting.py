"""Plans of sub-graphs put behind the plan of the graph around them, with their numbers moved (rule 17).

No edge crosses the border of a sub-graph, so the sets of nodes of one graph stay what they were when it was compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphflow.ids import NodeNumber
from graphflow.planning.plan import Plan, PlanCopy, PlanDecision, PlanFlow, PlanNode, PlanScope

#: Of a sub-graph: the plan of its graph, and what it is given and gives.
Inner = tuple[Plan, tuple[PlanCopy, ...], tuple[PlanCopy, ...]]


def nested(
    nodes: tuple[PlanNode, ...], scope: PlanScope, inner: Mapping[NodeNumber, Inner]
) -> tuple[tuple[PlanNode, ...], tuple[PlanScope, ...]]:
    """All nodes and all scopes: those of a graph, and behind them those of its sub-graphs `inner`, by their nodes."""
    placed, scopes = list(nodes), [scope]
    for number, (plan, inputs, outputs) in inner.items():
        first, offset = len(placed), len(scopes)
        prefix = f"{nodes[number].name}/"
        placed[number] = replace(placed[number], inner=offset)
        scopes += [_moved_scope(each, first, offset, prefix) for each in plan.scopes]
        scopes[offset] = replace(scopes[offset], node=number, inputs=inputs, outputs=outputs)
        placed += [_moved(node, first, offset, prefix) for node in plan.nodes]
    borders = tuple(f"{nodes[number].name}/" for number in inner)
    scopes[0] = replace(scope, within=(1 << len(placed)) - 1, borders=borders)
    return tuple(placed), tuple(scopes)


def _moved_scope(scope: PlanScope, first: int, offset: int, prefix: str) -> PlanScope:
    return replace(
        scope,
        members=scope.members << first,
        within=scope.within << first,
        number=scope.number + offset,
        node=None if scope.node is None else _moved_number(scope.node, first),
        prefix=prefix + scope.prefix,
        depth=scope.depth + 1,
        supervisors=_moved_numbers(scope.supervisors, first),
        borders=tuple(prefix + border for border in scope.borders),
    )


def _moved(node: PlanNode, first: int, offset: int, prefix: str) -> PlanNode:
    source = node.map
    if source is not None and source.source_node is not None:
        moved = _moved_number(source.source_node, first)
        source = replace(source, source_node=moved, source=prefix + source.source)
    return replace(
        node,
        index=_moved_number(node.index, first),
        name=prefix + node.name,
        prefix=prefix + node.prefix,
        scope=node.scope + offset,
        inner=None if node.inner is None else node.inner + offset,
        flow=None if node.flow is None else _moved_flow(node.flow, first),
        returns=node.returns and (frozenset(_moved_numbers(tuple(node.returns[0]), first)), node.returns[1]),
        dependencies=_moved_numbers(node.dependencies, first),
        dependents=_moved_numbers(node.dependents, first),
        choosers=_moved_numbers(node.choosers, first),
        handles=_moved_numbers(node.handles, first),
        on_error=None if node.on_error is None else _moved_number(node.on_error, first),
        ancestors=node.ancestors << first,
        descendants=node.descendants << first,
        needs=node.needs << first,
        awaited_by=node.awaited_by << first,
        lent_to=node.lent_to << first,
        streams_to=node.streams_to << first,
        map=source,
    )


def _moved_flow(flow: PlanFlow, first: int) -> PlanFlow:
    def moved(decision: PlanDecision) -> PlanDecision:
        return replace(decision, targets=_moved_numbers(decision.targets, first))

    default = None if flow.default is None else moved(flow.default)
    return replace(flow, decisions=tuple(map(moved, flow.decisions)), default=default)


def _moved_number(number: NodeNumber, first: int) -> NodeNumber:
    return NodeNumber(number + first)


def _moved_numbers(numbers: tuple[NodeNumber, ...], first: int) -> tuple[NodeNumber, ...]:
    return tuple(NodeNumber(number + first) for number in numbers)
