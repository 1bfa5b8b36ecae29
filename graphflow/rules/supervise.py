"""What do the supervisors decide when the run is idle? Rule 6, as a question: all targets are found before any starts.

`fold.py` carries out what is found here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphflow.errors import EvaluationError, UnstorableValue
from graphflow.ids import NodeNumber
from graphflow.planning.plan import PlanDecision, PlanFlow, PlanNode, PlanScope
from graphflow.rules.draft import Draft
from graphflow.run import Failure, NodeStatus


@dataclass(slots=True)
class Supervision:
    """What all supervisors together decide on one state."""

    #: Supervisor -> the nodes that it starts; a supervisor that only ends the run starts none.
    fired: dict[NodeNumber, list[NodeNumber]] = field(default_factory=dict)
    #: Supervisors whose conditions cannot be evaluated.
    failures: dict[NodeNumber, Failure] = field(default_factory=dict)
    #: Nodes that were named although they have failed.
    dropped: list[NodeNumber] = field(default_factory=list)
    #: State keys that are deleted because a decision fired.
    clears: list[str] = field(default_factory=list)

    @property
    def targets(self) -> tuple[NodeNumber, ...]:
        """In the order of decisions, each once."""
        return tuple(dict.fromkeys(target for targets in self.fired.values() for target in targets))


def supervise(draft: Draft, scope: PlanScope) -> Supervision:
    """The decisions of the graph's supervisors that are true and may fire. END counts only if nothing else does."""
    found = Supervision()
    ending: dict[NodeNumber, list[PlanDecision]] = {}
    for index, flow in _deciding(draft, scope):
        try:
            decisions = draft.true_decisions(flow, scope.prefix)
        except EvaluationError as error:
            found.failures[index] = failure_of(error)
            continue
        for decision in decisions:
            found.dropped += [target for target in decision.targets if draft.node(target).is_closed]
            targets = [
                target for target in decision.targets if _may_fire(draft, scope, flow, decision, target)
            ]
            if targets:
                found.fired.setdefault(index, []).extend(targets)
                found.clears += (scope.prefix + key for key in decision.clears)
            elif decision.ends:
                ending.setdefault(index, []).append(decision)
    if ending and not found.fired and not found.failures:
        found.fired = {index: [] for index in ending}
        found.clears = [
            scope.prefix + key
            for decisions in ending.values()
            for decision in decisions
            for key in decision.clears
        ]
    return found


def held_decisions(draft: Draft, scope: PlanScope) -> tuple[str, ...]:
    """The supervisors' decisions that are true now, for people. At the end of their graph none of them could fire."""
    found: list[str] = []
    for index, flow in _deciding(draft, scope):
        try:
            decisions = draft.true_decisions(flow, scope.prefix)
        except EvaluationError:
            continue
        for decision in decisions:
            names = [draft.plan.nodes[target].name for target in decision.targets]
            found += [f"{draft.plan.nodes[index].name} -> {name}: {decision.label}" for name in names]
    return tuple(found)


def failure_of(error: EvaluationError | UnstorableValue) -> Failure:
    return Failure(type(error).__name__, str(error), retryable=False)


def _deciding(draft: Draft, scope: PlanScope) -> list[tuple[NodeNumber, PlanFlow]]:
    """The supervisors in the order of addition, without those that have failed."""
    nodes: list[PlanNode] = [draft.plan.nodes[index] for index in scope.supervisors]
    return [
        (node.index, node.flow)
        for node in nodes
        if node.flow is not None and not draft.node(node.index).is_closed
    ]


def _may_fire(
    draft: Draft, scope: PlanScope, flow: PlanFlow, decision: PlanDecision, target: NodeNumber
) -> bool:
    """Refraction: only for a target never considered, or if what the condition reads changed since it was."""
    state = draft.node(target)
    if state.is_closed or state.considered == draft.revision:
        return False
    if not state.considered or (decision.repeat and state.status is not NodeStatus.SKIPPED):
        return True
    reads = decision.condition or flow
    return draft.changed_since(reads.names, reads.node_names, state.considered, scope.prefix)
