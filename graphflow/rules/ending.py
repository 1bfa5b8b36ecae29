"""What did the run come to, or the graph of a sub-graph? Rule 7, from how its nodes last settled."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic_core import to_json

from graphflow.graph.tasks import RunStatus
from graphflow.ids import NodeNumber
from graphflow.planning.plan import PlanScope
from graphflow.rules.draft import Draft
from graphflow.rules.explain import stall_reason
from graphflow.rules.supervise import held_decisions
from graphflow.run import NodeStatus


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run, or the graph of a sub-graph, is over. `error` says why it is not complete."""

    status: RunStatus
    error: str | None = None
    held: tuple[str, ...] = ()


def ending(draft: Draft, scope: PlanScope, *, by_end: bool) -> Ending:
    """The end of a graph in which nothing is active. `by_end`: a decision named END, so that nothing can have stalled."""
    held = () if by_end else held_decisions(draft, scope)
    if limit := draft.limit_of(scope):
        return Ending(RunStatus.FAILED, limit, held)
    succeeded = any(
        node.is_end and draft.node(node.index).status is NodeStatus.SUCCEEDED
        for node in draft.plan.own_nodes(scope)
    )
    if error := _failure(draft, scope):
        return Ending(RunStatus.PARTIAL if succeeded else RunStatus.FAILED, error, held)
    if not succeeded and not by_end and (error := stall_reason(draft.plan, scope, draft.node, held)):
        return Ending(RunStatus.FAILED, error, held)
    if error := _inner_failure(draft, scope):
        return Ending(RunStatus.PARTIAL, error, held)
    return Ending(RunStatus.COMPLETE, None, held)


def end_result(draft: Draft, scope: PlanScope) -> str:
    """The result of the graph's end node that succeeded, of several an object by name, null if none did."""
    ends = [
        node
        for node in draft.plan.own_nodes(scope)
        if node.is_end and draft.node(node.index).status is NodeStatus.SUCCEEDED
    ]
    texts = {node.own_name: draft.node(node.index).result or "null" for node in ends}
    if len(texts) == 1:
        return next(iter(texts.values()))
    members = ",".join(f"{to_json(name).decode()}:{text}" for name, text in texts.items())
    return f"{{{members}}}" if texts else "null"


def _failure(draft: Draft, scope: PlanScope) -> str | None:
    """The first thing that failed and stayed so: a node, or items of a map."""
    own_nodes = draft.plan.own_nodes(scope)
    for node in own_nodes:
        state = draft.node(node.index)
        if state.status is NodeStatus.FAILED:
            return f"node {node.name!r} failed: {state.failure.summary if state.failure else 'for no known reason'}"
    for node in own_nodes:
        if node.map is not None and (count := _failed_items(draft, node.index)):
            return f"node {node.name!r}: {count} {'item' if count == 1 else 'items'} failed"
    return None


def _inner_failure(draft: Draft, scope: PlanScope) -> str | None:
    """The first thing that failed inside of a sub-graph that succeeded all the same, at any depth."""
    for node in draft.plan.own_nodes(scope) if draft.plan.subgraphs else ():
        if node.inner is not None and draft.node(node.index).status is NodeStatus.SUCCEEDED:
            inner = draft.plan.scopes[node.inner]
            if error := _failure(draft, inner) or _inner_failure(draft, inner):
                return error
    return None


def _failed_items(draft: Draft, index: NodeNumber) -> int:
    change, stored = draft.transition.maps.get(index), draft.run.maps.get(index)
    if change is None:
        return stored.failed if stored else 0
    before = 0 if change.opened is not None or stored is None else stored.failed
    return before + len(change.failed)
