"""May a node start now, must it be skipped, or does it wait? Rules 1, 2, 5 and 8 for one node, as a question.

Everything is read through `read`, so that the rules can ask about a run in the middle of a transition.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from graphflow.ids import NodeNumber
from graphflow.planning.plan import Plan, PlanNode, bits
from graphflow.run import NodeState, NodeStatus, Run

ReadNode = Callable[[NodeNumber], NodeState]


class Verdict(Enum):
    """What is to become of a node that is not active."""

    WAIT = auto()
    START = auto()
    SKIP = auto()


def readiness(plan: Plan, read: ReadNode, active: int, fresh: int, index: NodeNumber) -> Verdict:
    """The verdict on a node that is not active. `active` and `fresh` are the run's masks."""
    node, state = plan.nodes[index], read(index)
    if state.is_closed:
        return Verdict.WAIT
    if node.waits:
        return _by_choosers(plan, read, active, fresh, node, state)
    return _by_dependencies(plan, read, active, fresh, node, state)


def _by_dependencies(
    plan: Plan, read: ReadNode, active: int, fresh: int, node: PlanNode, state: NodeState
) -> Verdict:
    streaming = _streaming(read, active, node)
    if node.needs & active & ~streaming:
        return Verdict.WAIT
    tolerant = node.config.run_when == "settled"
    any_new = new_counts = any_counts = failed = unchosen = False
    for index in node.dependencies:
        dependency, other = plan.nodes[index], read(index)
        if tolerant and _is_being_handled(plan, read, active, index):
            return Verdict.WAIT
        if streaming >> index & 1:
            any_new |= other.opened > state.considered
            new_counts |= other.opened > state.considered
            any_counts = True
            continue
        status, since = edge_status(dependency, other, node.index), other.settled
        is_old = since <= state.considered
        if dependency.ancestors & active and (is_old or _is_behind(plan, node, dependency, active | fresh)):
            return Verdict.WAIT
        if is_old or (dependency.ancestors | dependency.bit) & fresh:
            blocked = blocked_since(plan, read, index)
            if blocked and not tolerant:
                return Verdict.WAIT
            if blocked > since:
                status, since = NodeStatus.FAILED, blocked
        if not since:
            return Verdict.WAIT
        is_new = since > state.considered
        counts = status is NodeStatus.SUCCEEDED or (tolerant and status is NodeStatus.FAILED)
        any_new |= is_new
        any_counts |= counts
        new_counts |= counts and is_new
        failed |= status is NodeStatus.FAILED
        unchosen |= dependency.decides and status is NodeStatus.SKIPPED
    if not any_new:
        return Verdict.WAIT
    if unchosen:
        return Verdict.SKIP
    if failed and not tolerant:
        return Verdict.WAIT
    if new_counts:
        return Verdict.START
    return Verdict.WAIT if any_counts else Verdict.SKIP


def _streaming(read: ReadNode, active: int, node: PlanNode) -> int:
    """The bit of the map whose results a pipelined map gets one by one, while that has items and is not done."""
    source = node.map.source_node if node.map is not None and node.map.pipelined else None
    if source is None or not active >> source & 1 or not read(source).opened:
        return 0
    return 1 << source


def _by_choosers(
    plan: Plan, read: ReadNode, active: int, fresh: int, node: PlanNode, state: NodeState
) -> Verdict:
    """Who waits to be chosen is skipped when all that could choose it have settled and none did."""
    if node.named_by_supervisor:
        return Verdict.WAIT
    any_new = False
    for index in node.choosers:
        chooser, other = plan.nodes[index], read(index)
        if active >> index & 1:
            return Verdict.WAIT
        is_new = other.settled > state.considered
        if chooser.ancestors & active and (not is_new or _is_behind(plan, node, chooser, active | fresh)):
            return Verdict.WAIT
        if not other.settled or chose(chooser, other, node.index):
            return Verdict.WAIT
        any_new |= is_new
    return Verdict.SKIP if any_new else Verdict.WAIT


def _is_behind(plan: Plan, node: PlanNode, awaited: PlanNode, moving: int) -> bool:
    """Whether what `node` awaits may be of an earlier pass of a loop than something else that it awaits.

    `moving` are the nodes that run or have something new to consider. One of them above `awaited`, which itself is below
    what the others come from, will replace its result; the others may hold the new pass already.
    """
    others = 0
    for index in node.awaited:
        if index != awaited.index:
            others |= plan.nodes[index].ancestors | 1 << index
    return any(
        plan.nodes[index].ancestors & others for index in bits((awaited.ancestors | awaited.bit) & moving)
    )


def chose(chooser: PlanNode, state: NodeState, index: NodeNumber) -> bool:
    """Whether the chooser's last decision, or its failure, named the node."""
    handed_over = chooser.on_error == index and state.status is NodeStatus.FAILED
    return handed_over or bool((state.chosen or 0) >> index & 1)


def edge_status(dependency: PlanNode, state: NodeState, dependent: NodeNumber) -> NodeStatus:
    """How a settled dependency counts for one dependent: of what a flow control decides, only the chosen succeeded."""
    if (
        dependency.decides
        and state.status is NodeStatus.SUCCEEDED
        and not (state.chosen or 0) >> dependent & 1
    ):
        return NodeStatus.SKIPPED
    return state.status


def blocked_since(plan: Plan, read: ReadNode, index: NodeNumber) -> int:
    """The revision since which a failure above keeps the node from running; 0 if none does.

    To be asked when nothing above the node is active: then nothing can lift the block but a decision.
    """
    since: dict[NodeNumber, int] = {}
    for place in (*bits(plan.nodes[index].ancestors), index):  # in topological order
        node = plan.nodes[place]
        if node.waits or node.config.run_when == "settled":
            continue
        latest = 0
        for above in node.dependencies:
            other = read(above)
            latest = max(latest, other.settled if other.status is NodeStatus.FAILED else since.get(above, 0))
        if latest > read(place).considered:
            since[place] = latest
    return since.get(index, 0)


def _is_being_handled(plan: Plan, read: ReadNode, active: int, index: NodeNumber) -> bool:
    """Whether an active on_error node may yet open a failure of the node, or of one above it, again."""
    above = plan.nodes[index].ancestors | 1 << index
    return any(
        above >> failed & 1 and read(failed).status is NodeStatus.FAILED
        for handler in bits(active)
        for failed in plan.nodes[handler].handles
    )


def recount(plan: Plan, run: Run) -> None:
    """Set the masks `active` and `fresh` from the states of the nodes, as after a load."""
    run.active = run.fresh = 0
    for node, state in zip(plan.nodes, run.nodes, strict=True):
        if state.status.is_active:
            run.active |= node.bit
        scope = plan.scopes[node.scope]
        if scope.node is not None and not run.nodes[scope.node].has_entered:
            continue  # nothing in it is looked at until it is entered
        if any(run.nodes[index].settled > state.considered for index in node.awaited):
            run.fresh |= node.bit
        for follower in bits(node.streams_to if state.status.is_active else 0):
            if state.opened > run.nodes[follower].considered:
                run.fresh |= 1 << follower
