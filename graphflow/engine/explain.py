"""Why a node runs or does not run. Pure: the rules ask it what to do, people ask it what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from graphflow.engine.plan import Plan, PlanNode
from graphflow.run import NodeState, NodeStatus, Run

ReadNode = Callable[[int], NodeState]


class Verdict(Enum):
    """What readiness says about a node that is not active."""

    WAIT = auto()
    START = auto()
    SKIP = auto()


def readiness(plan: Plan, read: ReadNode, active: int, index: int) -> Verdict:
    """Rule 2 for a node that is not active: start it, skip it, or leave it as it is."""
    node, state = plan.nodes[index], read(index)
    if state.status is NodeStatus.FAILED and not state.reopened:
        return Verdict.WAIT
    if node.dependencies:
        return _by_dependencies(plan, read, active, node, state)
    if node.choosers and not node.named_by_supervisor:
        return _by_choosers(plan, read, active, node, state)
    return Verdict.WAIT


def _by_dependencies(plan: Plan, read: ReadNode, active: int, node: PlanNode, state: NodeState) -> Verdict:
    any_new = new_succeeded = failed = unchosen = False
    any_succeeded = False
    tolerant = node.config.run_when == "settled"
    for dependency in node.dependencies:
        other, plan_other = read(dependency), plan.nodes[dependency]
        if active & plan_other.bit or (tolerant and _is_being_handled(plan, read, active, dependency)):
            return Verdict.WAIT
        since = max(other.settled, _stopped_at(plan, read, active, dependency) if tolerant else 0)
        if not since:
            return Verdict.WAIT
        is_new = since > state.considered
        if not is_new and plan_other.ancestors & active:
            return Verdict.WAIT
        status = edge_status(plan_other, other, node.index)
        if since > other.settled:
            status = NodeStatus.FAILED
        any_new |= is_new
        failed |= status is NodeStatus.FAILED
        unchosen |= plan_other.decides and status is NodeStatus.SKIPPED
        counts = status is NodeStatus.SUCCEEDED or (tolerant and status is NodeStatus.FAILED)
        any_succeeded |= counts
        new_succeeded |= counts and is_new
    if not any_new:
        return Verdict.WAIT
    if unchosen:
        return Verdict.SKIP
    if failed and not tolerant:
        return Verdict.WAIT
    if new_succeeded:
        return Verdict.START
    return Verdict.WAIT if any_succeeded else Verdict.SKIP


def _by_choosers(plan: Plan, read: ReadNode, active: int, node: PlanNode, state: NodeState) -> Verdict:
    """A root that waits to be chosen is skipped when all who could choose it have settled and none did."""
    any_new = False
    for chooser in node.choosers:
        other, plan_other = read(chooser), plan.nodes[chooser]
        if active & plan_other.bit or not other.settled:
            return Verdict.WAIT
        is_new = other.settled > state.considered
        if not is_new and plan_other.ancestors & active:
            return Verdict.WAIT
        if (other.chosen or 0) & node.bit or (plan_other.on_error == node.index and other.status is NodeStatus.FAILED):
            return Verdict.WAIT
        any_new |= is_new
    return Verdict.SKIP if any_new else Verdict.WAIT


def edge_status(dependency: PlanNode, state: NodeState, dependent: int) -> NodeStatus:
    """How a settled dependency counts for one dependent: of a flow control, only what it chose succeeded."""
    if dependency.decides and state.status is NodeStatus.SUCCEEDED and not (state.chosen or 0) >> dependent & 1:
        return NodeStatus.SKIPPED
    return state.status


def _is_being_handled(plan: Plan, read: ReadNode, active: int, index: int) -> bool:
    handler = plan.nodes[index].on_error
    return handler is not None and read(index).status is NodeStatus.FAILED and bool(active >> handler & 1)


def _stopped_at(plan: Plan, read: ReadNode, active: int, index: int) -> int:
    """The revision since which the node cannot run because something above it failed; 0 if it can."""
    state = read(index)
    causes = [0]
    for above in plan.nodes[index].dependencies:
        if active >> above & 1:
            continue
        since = read(above).settled if read(above).status is NodeStatus.FAILED else _stopped_at(plan, read, active, above)
        causes.append(since)
    return max(causes) if max(causes) > state.considered else 0


def stall_reason(plan: Plan, read: ReadNode, held: tuple[str, ...]) -> str | None:
    """Why a run without a successful end node came to a stop; None if nothing was left to do."""
    if held:
        return (
            f"stalled: {held[0]!r} is true, but nothing that it reads has changed since its node was last considered; "
            "let the node change what the condition reads"
        )
    for node in plan.nodes:
        if read(node.index).settled:
            continue
        for dependency in node.dependencies:
            if not read(dependency).settled:
                return f"stalled: {_waits_for(plan, read, node.index)}"
    return None


def _waits_for(plan: Plan, read: ReadNode, index: int) -> str:
    """Follow what is missing up to the node that nothing starts."""
    name, node = plan.nodes[index].name, plan.nodes[index]
    while True:
        missing = next((place for place in node.dependencies if not read(place).settled), None)
        if missing is None:
            return f"{name!r} waits for {node.name!r}, which nothing will start"
        node = plan.nodes[missing]


def explain(plan: Plan, run: Run, name: str) -> str:
    """In one sentence, why the node is where it is."""
    node, state = plan.node(name), run.nodes[plan.by_name[name]]
    read = run.nodes.__getitem__
    match state.status:
        case NodeStatus.SUCCEEDED:
            return f"{name} succeeded in visit {state.visits}"
        case NodeStatus.FAILED:
            reason = state.failure.summary if state.failure else "for an unknown reason"
            return f"{name} failed after {state.attempts} attempts: {reason}"
        case NodeStatus.READY:
            return f"{name} is ready and waits for one of the {plan.max_concurrent_tasks} slots"
        case NodeStatus.RUNNING:
            return f"{name} is running"
        case NodeStatus.WAITING:
            module = next(module for module in state.modules if module.status is NodeStatus.WAITING)
            reason = module.failure.summary if module.failure else "a message"
            return f"{name} waits for attempt {module.attempts + 1} after {reason}"
    never = "was skipped" if state.status is NodeStatus.SKIPPED else "never ran"
    return f"{name} {never}: {_why_not(plan, read, node, state)}"


def _why_not(plan: Plan, read: ReadNode, node: PlanNode, state: NodeState) -> str:
    for dependency in node.dependencies:
        other = plan.nodes[dependency]
        status = edge_status(other, read(dependency), node.index)
        if status is NodeStatus.FAILED:
            failure = read(dependency).failure
            return f"{other.name} failed{f': {failure.summary}' if failure else ''}"
        if status is NodeStatus.SKIPPED and other.decides:
            return f"{other.name} did not choose it"
        if status is NodeStatus.PENDING:
            return f"it waits for {other.name}, and {_why_not(plan, read, other, read(dependency))}"
    if state.status is NodeStatus.SKIPPED and node.condition is not None:
        return f"its condition was false: {node.condition.text}"
    if state.status is NodeStatus.SKIPPED:
        return "all that it depends on was skipped" if node.dependencies else "nothing chose it"
    if node.dependencies:
        return "the run ended before its dependencies were there"
    return "nothing chose it" if not node.starts else "the run ended before it started"
