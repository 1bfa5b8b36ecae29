"""What did the run come to? Rule 7, from how its nodes last settled."""

from __future__ import annotations

from dataclasses import dataclass

from graphflow.graph.tasks import RunStatus
from graphflow.ids import NodeNumber
from graphflow.rules.draft import Draft
from graphflow.rules.explain import stall_reason
from graphflow.rules.supervise import held_decisions
from graphflow.run import NodeStatus


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run is over. `error` says why it is not complete."""

    status: RunStatus
    error: str | None = None
    held: tuple[str, ...] = ()


def ending(draft: Draft, *, by_end: bool) -> Ending:
    """The end of a run in which nothing is active. `by_end`: a decision named END, so that nothing can have stalled."""
    held = () if by_end else held_decisions(draft)
    if limit := draft.transition.limit or draft.run.limit:
        return Ending(RunStatus.FAILED, limit, held)
    succeeded = any(
        node.is_end and draft.node(node.index).status is NodeStatus.SUCCEEDED for node in draft.plan.nodes
    )
    if error := _failure(draft):
        return Ending(RunStatus.PARTIAL if succeeded else RunStatus.FAILED, error, held)
    if not succeeded and not by_end and (error := stall_reason(draft.plan, draft.node, held)):
        return Ending(RunStatus.FAILED, error, held)
    return Ending(RunStatus.COMPLETE, None, held)


def _failure(draft: Draft) -> str | None:
    """The first thing that failed and stayed so: a node, or items of a map."""
    for node in draft.plan.nodes:
        state = draft.node(node.index)
        if state.status is NodeStatus.FAILED:
            return f"node {node.name!r} failed: {state.failure.summary if state.failure else 'for no known reason'}"
    for node in draft.plan.nodes:
        if node.map is not None and (count := _failed_items(draft, node.index)):
            return f"node {node.name!r}: {count} {'item' if count == 1 else 'items'} failed"
    return None


def _failed_items(draft: Draft, index: NodeNumber) -> int:
    change, stored = draft.transition.maps.get(index), draft.run.maps.get(index)
    if change is None:
        return stored.failed if stored else 0
    before = 0 if change.opened is not None or stored is None else stored.failed
    return before + len(change.failed)
