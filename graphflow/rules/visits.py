"""What one module run of a visit comes to: it starts, succeeds, fails and is tried again; then the next one, or the end.

Rules 4 and 8, for the node that an input is about. What follows for other nodes is in `fold.py`, what is about the items
of a map in `maps.py`.
"""

from __future__ import annotations

from graphflow import events
from graphflow.graph.modules import END
from graphflow.ids import ModuleNumber, enumerate_modules
from graphflow.inputs import Outcome, RetryDue, Started
from graphflow.planning.plan import Plan, PlanDecision, PlanNode
from graphflow.rules.effects import forgive, send, take_messages
from graphflow.rules.fold import Fold
from graphflow.rules.retries import waits_for_retry
from graphflow.run import Failure, Message, NodeStatus, Place, message_text


def admit(fold: Fold, started: Started) -> None:
    state = fold.draft.edit(started.node)
    state.modules[started.module].status = NodeStatus.RUNNING
    state.status = NodeStatus.RUNNING
    if not state.started:
        state.started = fold.draft.now
        fold.draft.emit_node(events.NodeStarted, started.node)


def admit_ready(fold: Fold, room: int) -> None:
    """Start what has just become ready, up to the first that may have to wait for others of its node or sub-graph."""
    for index, place in fold.transition.ready[:room]:
        node = fold.plan.nodes[index]
        if node.config.max_concurrency is not None or node.scope:
            return
        admit(fold, Started(index, place))


def retry(fold: Fold, due: RetryDue) -> None:
    state = fold.draft.edit(due.node)
    module = state.modules[due.module]
    module.status = NodeStatus.READY
    module.retry_at = 0
    state.status = state.busiest
    if fold.plan.subgraphs >> due.node & 1:
        fold.transition.entering.append(due.node)
    else:
        fold.transition.ready.append((due.node, due.module))


def take_outcome(fold: Fold, outcome: Outcome, draw: float) -> None:
    node, state = fold.plan.nodes[outcome.node], fold.draft.edit(outcome.node)
    module = state.modules[outcome.module]
    module.attempts += 1
    if outcome.failure is not None:
        fail_module(fold, node, outcome.module, outcome.failure, draw)
    else:
        fold.draft.write(outcome.writes, outcome.ttls)
        send(fold.draft, outcome.sent)
        take_messages(fold.draft, outcome.taken)
        if node.modules[outcome.module].module.output_mailbox is not None:
            publish_result(fold, Place(outcome.node, outcome.visit, outcome.module), outcome.result)
        module.status = NodeStatus.SUCCEEDED
        module.result = outcome.result
        module.failure = None
        if node.modules[outcome.module].module.config.stop_on_success:
            for later in state.modules[outcome.module + 1 :]:
                if later.status is NodeStatus.PENDING:
                    later.status = NodeStatus.SKIPPED
        _next_module(fold, node, outcome.decision)
    fold.go_on()


def publish_result(fold: Fold, place: Place, text: str | None) -> None:
    node = fold.plan.nodes[place.node]
    mailbox = node.modules[place.module].module.output_mailbox
    assert mailbox is not None
    message = message_text(f"{place.text(node.name)}:result", node.own_name, text or "null")
    send(fold.draft, [Message(node.prefix + mailbox, message)])


def fail_module(fold: Fold, node: PlanNode, place: ModuleNumber, failure: Failure, draw: float) -> None:
    """One attempt failed: wait for the next one, or give up (rule 8)."""
    if not waits_for_retry(fold.draft, node, place, failure, draw):
        forgive(fold.draft, Place(node.index, fold.draft.node(node.index).visits, place), failure)
        _next_module(fold, node)


def _next_module(fold: Fold, node: PlanNode, decision: tuple[str, ...] | None = None) -> None:
    """After one module of the node came to an end: the next one, or the end of the visit (rule 4)."""
    state = fold.draft.edit(node.index)
    if any(module.status.is_active for module in state.modules):
        state.status = state.busiest
        return
    for module in state.modules:
        if module.status is NodeStatus.FAILED:
            assert module.failure is not None
            fold.fail(node.index, module.failure)
            return
    for place, module in enumerate_modules(state.modules):
        if module.status is NodeStatus.PENDING:
            module.status = state.status = NodeStatus.READY
            fold.transition.ready.append((node.index, place))
            return
    _end_visit(fold, node, decision)


def _end_visit(fold: Fold, node: PlanNode, decision: tuple[str, ...] | None) -> None:
    """All modules have succeeded; the node's own decision may already read its result."""
    modules = fold.draft.node(node.index).modules
    last = next(module for module in reversed(modules) if module.status is NodeStatus.SUCCEEDED)
    fold.draft.show(node.index, NodeStatus.SUCCEEDED, last.result)
    if node.flow is not None:
        fold.decide_by_flow(node)
    elif node.returns is not None:
        fold.decide(node, _returned(fold.plan, node, decision))
    else:
        fold.settle(node.index, NodeStatus.SUCCEEDED)


def _returned(plan: Plan, node: PlanNode, decision: tuple[str, ...] | None) -> list[PlanDecision]:
    if decision is None:
        return []
    targets = tuple(plan.by_name[node.prefix + name] for name in decision if name != END)
    return [PlanDecision(targets, END in decision, None, (), False, "returned")]
