"""A sub-graph enters its graph, or is stopped in it. Rule 17; how it comes to its end is in `fold.py`.

Entered, a graph is as it was never run: its nodes, keys, mailboxes and signals are as at the start of a run. Numbers of
visits go on, so that nothing of an earlier visit is taken for this one's.
"""

from __future__ import annotations

from graphflow import events
from graphflow.codec import encode
from graphflow.errors import EvaluationError, UnstorableValue
from graphflow.ids import NodeNumber
from graphflow.inputs import Entered, GraphStopped
from graphflow.planning.plan import PlanNode, PlanScope, bits
from graphflow.rules.draft import Draft
from graphflow.rules.effects import forget
from graphflow.rules.fold import Fold
from graphflow.rules.supervise import failure_of
from graphflow.run import Failure, GraphState, NodeState, NodeStatus


def enter(fold: Fold, entered: Entered) -> None:
    """The node's graph begins, with what it is given as it is now."""
    draft = fold.draft
    node = fold.plan.nodes[entered.node]
    assert node.inner is not None
    scope = fold.plan.scopes[node.inner]
    given = _inputs(draft, node, scope)
    if isinstance(given, Failure):
        fold.fail_graph(node, given)
        fold.go_on()
        return
    _clear(draft, scope)
    draft.write({scope.prefix + key: text for key, text in given.items()})
    state = draft.edit(node.index)
    state.modules[0].status = state.status = NodeStatus.RUNNING
    members = ",".join(f"{_quoted(key)}:{text}" for key, text in given.items())
    state.graph = GraphState(f"{{{members}}}", draft.now)
    if not state.started:
        state.started = draft.now
        draft.emit_node(events.NodeStarted, node.index)
    for inner in fold.plan.own_nodes(scope):
        if inner.starts:
            fold.start(inner.index)
    fold.go_on()


def stop_graph(fold: Fold, stopped: GraphStopped) -> None:
    """What is active inside is stopped, and the attempt has failed."""
    inner = fold.plan.nodes[stopped.node].inner
    assert inner is not None
    scope = fold.plan.scopes[inner]
    fold.stop_active(stopped.reason, scope.within)
    fold.draft.reach_limit(stopped.reason, scope)
    fold.go_on()


def is_late_stop(state: NodeState, stopped: GraphStopped) -> bool:
    is_another = state.visits != stopped.visit or state.attempts != stopped.attempts
    return is_another or not state.has_entered


def _inputs(draft: Draft, node: PlanNode, scope: PlanScope) -> dict[str, str] | Failure:
    given: dict[str, str] = {}
    for copy in scope.inputs:
        try:
            text = draft.copied(copy, node.prefix)
        except (EvaluationError, UnstorableValue) as error:
            return failure_of(error)
        if text is None:
            message = (
                f"inputs {copy.key!r} of {node.name!r}: there is no {copy.value.text!r} when it is entered"
            )
            return Failure("MissingKey", message, retryable=False)
        given[copy.key] = text
    return given


def _clear(draft: Draft, scope: PlanScope) -> None:
    """Nothing is left of an earlier entering, at any depth."""
    untouched = NodeState()
    for index in bits(scope.within):
        old = draft.node(index)
        if old != untouched:
            _begin_anew(draft, index, old)
    run, transition, prefix = draft.run, draft.transition, scope.prefix
    keys = [key for key in {*run.state, *transition.state} if key.startswith(prefix)]
    draft.write(dict.fromkeys(keys))
    for mailbox, texts in run.mailboxes.items():
        if mailbox.startswith(prefix):
            transition.taken += [(mailbox, text) for text in texts]
    transition.signals |= {name: () for name in run.signals if name.startswith(prefix)}


def _begin_anew(draft: Draft, index: NodeNumber, old: NodeState) -> None:
    forget(draft, index)
    # Whoever has read its result is to see that it is gone.
    changed = draft.revision if old.changed else 0
    draft.transition.nodes[index] = NodeState(visits=old.visits, earlier=old.visits, changed=changed)


def _quoted(key: str) -> str:
    return encode(key, "inputs")
