"""Why is a node where it is? In one sentence, for errors, events and people. Pure; the rules are those of docs/rules.md."""

from __future__ import annotations

from graphflow.ids import NodeNumber
from graphflow.planning.plan import Plan, PlanNode, PlanScope, bits
from graphflow.rules.readiness import ReadNode, blocked_since, chose, edge_status
from graphflow.run import NodeState, NodeStatus, Run, Wait


def explain(plan: Plan, run: Run, name: str) -> str:
    """In one sentence, how far the node is, and why it does not run if it does not. KeyError if there is no such node."""
    node, state = plan.node(name), run.nodes[plan.by_name[name]]
    match state.status:
        case NodeStatus.SUCCEEDED:
            return (
                f"{name} decided {_times(state.visits)}"
                if node.supervises
                else f"{name} succeeded in visit {state.visits}"
            )
        case NodeStatus.FAILED:
            return f"{name} {_failed(state)}"
        case NodeStatus.READY if node.inner is not None:
            return f"{name} is ready and enters its graph"
        case NodeStatus.READY:
            limit = node.config.max_concurrency
            own = "" if limit is None else f", or for its own max_concurrency={limit}"
            slots = min(
                (plan.max_concurrent_tasks, *(scope.max_concurrent_tasks for scope in plan.around(node)))
            )
            return f"{name} is ready and waits for one of the {slots} slots (max_concurrent_tasks){own}"
        case NodeStatus.RUNNING if node.inner is not None:
            return f"{name} is running: {_inside(plan, run, plan.scopes[node.inner])}"
        case NodeStatus.RUNNING:
            return f"{name} is running{_map_progress(run, node)}"
        case NodeStatus.WAITING:
            waits = (wait for place, wait in run.waits.items() if place.node == node.index)
            if wait := next(waits, None):
                return (
                    f"{name} waits for the signal {wait.signal!r}{asked(wait)}: "
                    f"graphflow signal {run.id} {wait.signal} JSON sends it"
                )
            module = next(module for module in state.modules if module.status is NodeStatus.WAITING)
            after = f" after {module.failure.summary}" if module.failure else ""
            return f"{name} waits for attempt {module.attempts + 1} of {node.config.attempts}{after}"
        case NodeStatus.SKIPPED:
            return f"{name} was skipped: {skip_reason(plan, run.nodes.__getitem__, node.index)}"
    if state.visits:
        return f"{name} was stopped in visit {state.visits}, before it came to an end"
    if node.supervises:
        return f"{name} never decided for anything: {_quiet_supervisor(run)}"
    how_far = "never ran" if run.status.is_final else "has not started"
    if (outer := _not_entered(plan, run, node)) is not None:
        return f"{name} {how_far}: {outer.name}, in whose graph it is, was not entered"
    return f"{name} {how_far}: {_why_pending(plan, run, node)}"


def _inside(plan: Plan, run: Run, scope: PlanScope) -> str:
    """How far the graph of a sub-graph is."""
    own_nodes = plan.own_nodes(scope)
    settled = sum(bool(run.nodes[node.index].settled) for node in own_nodes)
    active = ", ".join(plan.nodes[index].name for index in bits(run.active & scope.members))
    return f"{settled} of {len(own_nodes)} nodes inside have settled, {active or 'nothing'} is active"


def asked(wait: Wait) -> str:
    """What a wait asks, and what became of the last answer, in brackets; empty if there is nothing to say."""
    parts = [
        *([f"it asks: {wait.question}"] if wait.question else []),
        *([f"the last answer was refused: {wait.refused}"] if wait.refused else []),
    ]
    return f" ({'; '.join(parts)})" if parts else ""


def skip_reason(plan: Plan, read: ReadNode, index: NodeNumber) -> str:
    """Why a node that was skipped, or is about to be, was."""
    node = plan.nodes[index]
    if node.choosers and not any(chose(plan.nodes[place], read(place), index) for place in node.choosers):
        names = " or ".join(plan.nodes[chooser].name for chooser in node.choosers)
        return f"nothing chose it: it waits to be chosen by {names}"
    for dependency in node.dependencies:
        other, state = plan.nodes[dependency], read(dependency)
        if other.decides and edge_status(other, state, index) is NodeStatus.SKIPPED:
            was_skipped = state.status is NodeStatus.SKIPPED
            return f"{other.name} {'was skipped and chose nothing' if was_skipped else 'did not choose it'}"
    skipped = all(read(dependency).status is NodeStatus.SKIPPED for dependency in node.dependencies)
    if node.condition is not None and not (skipped and node.dependencies):
        return f"its condition was false: {node.condition.text}"
    return "all that it depends on was skipped"


def stall_reason(plan: Plan, scope: PlanScope, read: ReadNode, held: tuple[str, ...]) -> str | None:
    """Why a graph without a successful end node came to a stop (rule 7); None if nothing was left to do."""
    if held:
        return (
            f"stalled: the decision {held[0]!r} is true, but nothing that it reads has changed since its node was last "
            "considered; let the node change what the condition reads"
        )
    for node in plan.own_nodes(scope):
        if read(node.index).settled or node.waits:
            continue
        cause = _missing(plan, read, node)
        if cause is not None:
            return f"stalled: {node.name!r} waits for {cause.name!r}, which nothing will start"
    return None


def _not_entered(plan: Plan, run: Run, node: PlanNode) -> PlanNode | None:
    """The outermost sub-graph around the node that was not entered; None if all were, the last time."""
    found = None
    for scope in plan.around(node):
        outer = plan.nodes[scope.node or 0]
        if run.nodes[outer.index].graph is None:
            found = outer
    return found


def _why_pending(plan: Plan, run: Run, node: PlanNode) -> str:
    read = run.nodes.__getitem__
    cause = _missing(plan, read, node) or node
    for dependency in cause.dependencies:
        if read(dependency).status is NodeStatus.FAILED:
            failure = f"{plan.nodes[dependency].name} {_failed(read(dependency))}"
            return failure if cause is node else f"it waits for {cause.name}, and {failure}"
    if cause is not node:
        return f"it waits for {cause.name}, which {_own_reason(plan, run, cause)}"
    return f"it {_own_reason(plan, run, node)}"


def _missing(plan: Plan, read: ReadNode, node: PlanNode) -> PlanNode | None:
    """What has not settled and, in the end, keeps the node waiting; None if all that it depends on has settled."""
    found = None
    while True:
        below = node if found is None else found
        unsettled = (place for place in below.dependencies if not below.waits and not read(place).settled)
        missing = next(unsettled, None)
        if missing is None:
            return found
        found = plan.nodes[missing]


def _own_reason(plan: Plan, run: Run, node: PlanNode) -> str:
    """Why a node does not run although everything that it depends on has settled, as the end of a sentence."""
    state = run.nodes[node.index]
    if state.status.is_active or state.visits:
        return (
            f"is {state.status.value}" if state.status.is_active else "was stopped before it came to an end"
        )
    if node.waits and not node.starts:
        return _waiting_root(plan, run, node)
    if (limit := _limit_of(plan, run, node)) is not None:
        return f"was not started: {limit}"
    if run.status.is_final:
        return f"was not started before the run ended{f': {run.error}' if run.error else ''}"
    blocked = [
        plan.nodes[place].name
        for place in node.dependencies
        if blocked_since(plan, run.nodes.__getitem__, place)
    ]
    return (
        f"waits for {blocked[0]}, which a failure keeps from running"
        if blocked
        else "waits for the run to go on"
    )


def _limit_of(plan: Plan, run: Run, node: PlanNode) -> str | None:
    outer = plan.scopes[node.scope].node
    if outer is None:
        return run.limit
    graph = run.nodes[outer].graph
    return None if graph is None else graph.limit


def _waiting_root(plan: Plan, run: Run, node: PlanNode) -> str:
    by = [plan.nodes[chooser].name for chooser in node.choosers]
    by += [
        plan.nodes[index].name
        for index in plan.scopes[node.scope].supervisors
        if node.named_by_supervisor and _names(plan, index, node)
    ]
    limit = _limit_of(plan, run, node)
    limited = f" ({limit})" if limit else ""
    return f"starts only when it is chosen, and {' or '.join(by) or 'nobody'} did not choose it{limited}"


def _names(plan: Plan, supervisor: NodeNumber, node: PlanNode) -> bool:
    flow = plan.nodes[supervisor].flow
    assert flow is not None
    decisions = (*flow.decisions, *((flow.default,) if flow.default else ()))
    return any(node.index in decision.targets for decision in decisions)


def _failed(state: NodeState) -> str:
    reason = state.failure.summary if state.failure else "for no known reason"
    return f"failed after {state.attempts} attempts: {reason}" if state.attempts > 1 else f"failed: {reason}"


def _quiet_supervisor(run: Run) -> str:
    return "none of its decisions could fire" if run.status.is_final else "it decides when no node is active"


def _map_progress(run: Run, node: PlanNode) -> str:
    state = run.opened_map(node.index, run.nodes[node.index].visits)
    if node.map is None or state is None:
        return ""
    failed = f", {state.failed} failed" if state.failed else ""
    return f": {state.done} of {state.total} items done{failed}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
