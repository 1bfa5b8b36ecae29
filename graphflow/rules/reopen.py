"""What is in flight again when a stored run becomes the start of another? What had failed or was cut off.

Completed work stays: nodes that succeeded, the modules of a failed visit that had committed, items with a result. What
depends on the rest follows by the rules, for what settles anew is new to it. Pure; changes the run that it is given,
which nobody drives.
"""

from __future__ import annotations

from graphflow.errors import EvaluationError
from graphflow.graph.tasks import RunStatus
from graphflow.ids import ItemNumber, NodeNumber
from graphflow.planning.plan import Plan, PlanNode, PlanScope, bits
from graphflow.rules.draft import Draft
from graphflow.rules.readiness import recount
from graphflow.run import (
    GraphState,
    ModuleState,
    NodeState,
    NodeStatus,
    Run,
    beginning_field,
    is_beginning_field,
    timeless,
)


def reopen(plan: Plan, run: Run, unrecorded: dict[NodeNumber, set[ItemNumber]], now: float) -> None:
    """Make `run` one that has not begun, with what had failed or was cut off ready to run and its budgets new.

    `unrecorded` are the indexes of items without a result, failed ones included, by map node. Events and times of
    visits that are under way begin anew; `now` is in ms since 1970.
    """
    _ask_again(run)
    failed, limited = run.status is RunStatus.FAILED, run.limit is not None
    for scope in plan.scopes:  # those around before those inside
        if scope.node is not None:
            outer = run.nodes[scope.node]
            if not outer.has_entered or outer.graph is None:
                continue
            failed, limited = True, outer.graph.limit is not None
            outer.graph = GraphState(outer.graph.inputs, now)
        for node in plan.own_nodes(scope):  # in topological order
            _reopen_node(plan, run, node, unrecorded.get(node.index, set()))
        if limited:
            _ask_for_lost_jumps(plan, scope, run)
        if failed and not _goes_on(plan, scope, run):
            _ask_for_held(plan, scope, run)
    for index in bits(run.active):
        state = run.nodes[index]
        goes_on = state.has_entered or run.opened_map(index, state.visits) is not None
        state.started = now if goes_on else 0
        state.finished = 0
    run.status = RunStatus.WAITING
    run.iterations = run.deaths = run.deaths_counted = 0
    run.limit = run.error = None
    run.held = ()
    run.started = run.finished = 0
    recount(plan, run)


def _ask_again(run: Run) -> None:
    """Who waits for a signal asks again, by the code as it is now: in its place among who waits, with all its time. A wait
    that asks nothing, takes any answer and has no end would be the same again: it goes on."""
    asking = [
        (place, wait) for place, wait in run.waits.items() if wait.question or wait.schema or wait.deadline
    ]
    for place, wait in asking:
        del run.waits[place]
        run.steps.setdefault(place, {})[beginning_field(wait.field)] = wait.beginning
        if place.item is None:
            state = run.nodes[place.node]
            state.modules[place.module].status = NodeStatus.READY
            state.status = state.busiest
    for remembered in run.steps.values():
        for name, text in remembered.items():
            if is_beginning_field(name):
                remembered[name] = timeless(text)


def _reopen_node(plan: Plan, run: Run, node: PlanNode, unrecorded: set[ItemNumber]) -> None:
    state = run.nodes[node.index]
    has_failed = state.status is NodeStatus.FAILED
    if run.active & node.bit:
        _reopen_items(run, node, unrecorded)
    elif run.active & node.ancestors & ~node.bit:
        # What it depends on is about to be replaced: it will be considered when that is there.
        if has_failed:
            _forget(state)
    elif (has_failed and (node.on_error is None or not run.active >> node.on_error & 1)) or (
        not has_failed
        and (
            _was_cut_off(state)
            or (_lacks_items(run, node) and unrecorded)
            or _has_failed_inside(plan, run, node)
        )
    ):
        _run_again(run, node, state, unrecorded)


def _was_cut_off(state: NodeState) -> bool:
    """Whether its last visit was stopped before it came to an end."""
    return bool(state.visits) and state.considered > state.settled


def _lacks_items(run: Run, node: PlanNode) -> bool:
    """Whether it is a map that succeeded although items failed."""
    succeeded = run.nodes[node.index].status is NodeStatus.SUCCEEDED
    return succeeded and node.index in run.maps and run.maps[node.index].failed > 0


def _has_failed_inside(plan: Plan, run: Run, node: PlanNode) -> bool:
    """Whether it is a sub-graph that succeeded although something inside failed, at any depth."""
    if node.inner is None or run.nodes[node.index].status is not NodeStatus.SUCCEEDED:
        return False
    return any(
        run.nodes[inner.index].status is NodeStatus.FAILED or _has_failed_inside(plan, run, inner)
        for inner in plan.own_nodes(plan.scopes[node.inner])
    )


def _forget(state: NodeState) -> None:
    """As if it had never settled, so that who depends on it waits."""
    state.status = state.settled_as = NodeStatus.PENDING
    state.settled = 0
    state.failure = state.chosen = None


def _run_again(run: Run, node: PlanNode, state: NodeState, unrecorded: set[ItemNumber]) -> None:
    """Go on with its last visit; if that failed by an expression, and not in a module, start it once more."""
    waiting = [module for module in state.modules if module.status in (NodeStatus.FAILED, NodeStatus.PENDING)]
    by_expression = state.failure is not None and all(
        module.status is not NodeStatus.FAILED for module in waiting
    )
    state.failure = None
    state.handled = state.crashes = 0
    state.reopened = state.dropped = False
    if by_expression:
        _forget(state)
        # Supervisors decide when the run is idle; nothing starts them.
        state.again = not node.supervises
        return
    if state.considered <= state.settled:
        # If it is stopped before it settles anew, it falls back to neither the failure nor the incomplete result.
        state.settled = 0
        state.settled_as = NodeStatus.PENDING
    # A sub-graph that was not entered in its last visit still has the graph of an earlier one.
    is_opened = state.graph is not None and state.started > 0
    if is_opened or run.opened_map(node.index, state.visits) is not None:
        state.modules = [ModuleState(NodeStatus.RUNNING)]
        state.status = NodeStatus.RUNNING
        _reopen_items(run, node, unrecorded)
    else:
        for module in waiting:
            module.status = NodeStatus.PENDING
            module.attempts = 0
            module.failure = None
        for module in waiting if node.config.parallel else waiting[:1]:
            module.status = NodeStatus.READY
        state.status = NodeStatus.READY
    run.active |= node.bit


def _reopen_items(run: Run, node: PlanNode, unrecorded: set[ItemNumber]) -> None:
    records = run.opened_map(node.index, run.nodes[node.index].visits)
    if records is not None:
        records.failed = 0
        records.unfinished = unrecorded
        records.crashes = {}
        run.map_results.pop(node.index, None)


def _goes_on(plan: Plan, scope: PlanScope, run: Run) -> bool:
    own_nodes = plan.own_nodes(scope)
    return bool(run.active & scope.members) or any(run.nodes[node.index].again for node in own_nodes)


def _ask_for_lost_jumps(plan: Plan, scope: PlanScope, run: Run) -> None:
    """The limit that ended the graph kept decisions from starting nodes that do not depend on who decided."""
    for node in plan.own_nodes(scope):
        state = run.nodes[node.index]
        edges = sum(1 << dependent for dependent in node.dependents)
        for target in bits((state.chosen or 0) & ~edges & ~run.active):
            if run.nodes[target].considered < state.settled:
                run.nodes[target].again = True


def _ask_for_held(plan: Plan, scope: PlanScope, run: Run) -> None:
    """The graph stalled: what the supervisors would start, had it not changed nothing when it last ran, may try again."""
    draft = Draft(plan, run, run.revision, 0)
    for index in scope.supervisors:
        flow = plan.nodes[index].flow
        try:
            decisions = draft.true_decisions(flow, scope.prefix) if flow is not None else []
        except EvaluationError:
            continue
        for target in (target for decision in decisions for target in decision.targets):
            run.nodes[target].again = True
