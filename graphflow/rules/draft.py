"""A transition in the making: the run as it would be, readable while the rules are still deciding.

Reads look through to the run, writes stay in the transition. Expressions are evaluated here, against the draft, once
per text and per change of what they read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from graphflow.codec import encode, is_plain
from graphflow.codec.canonical import is_same_text
from graphflow.events import Event, NodeEvent
from graphflow.expressions import MISSING, Expression, seen, seen_value
from graphflow.ids import ItemNumber, NodeNumber
from graphflow.planning.plan import Plan, PlanDecision, PlanFlow
from graphflow.run import NodeState, NodeStatus, Run
from graphflow.transition import Transition

#: Where the memo of decoded values keeps the task; no state key or node is called so.
_TASK = "\0task"
#: No end is later, in ms since 1970: up to here a float tells each from the next.
_LAST_END = 2.0**53
#: What is kept for good.
_NO_TTLS: Mapping[str, float | None] = {}


class Draft:
    """The run with the changes of one transition laid over it."""

    def __init__(self, plan: Plan, run: Run, revision: int, now: float) -> None:
        self.plan = plan
        self.run = run
        self.revision = revision
        self.now = now
        self.transition = Transition(revision, run.active, run.fresh, run.iterations)

    # Nodes

    def node(self, index: NodeNumber) -> NodeState:
        """The node as it stands, to look at."""
        return self.transition.nodes.get(index) or self.run.nodes[index]

    def edit(self, index: NodeNumber) -> NodeState:
        """The node as it stands, to change: a copy that belongs to the transition."""
        changed = self.transition.nodes.get(index)
        if changed is None:
            changed = self.transition.nodes[index] = self.run.nodes[index].clone()
        return changed

    def is_active(self, index: NodeNumber) -> bool:
        return bool(self.transition.active >> index & 1)

    def show(self, index: NodeNumber, status: NodeStatus, result: str | None) -> None:
        """Make known how the node settled, and with what result."""
        state = self.edit(index)
        before = state.result if state.settled_as is NodeStatus.SUCCEEDED else MISSING
        after = result if status is NodeStatus.SUCCEEDED else MISSING
        state.settled_as = status
        if status is NodeStatus.SUCCEEDED:
            state.result = result
        if before != after:
            state.changed = self.revision

    def emit(self, kind: type[Event], **values: Any) -> None:
        self.transition.events.append(kind(revision=self.revision, at=self.now, **values))

    def emit_node(self, kind: type[NodeEvent], number: NodeNumber, /, **values: Any) -> None:
        name, visit = self.plan.nodes[number].name, self.node(number).visits
        self.transition.events.append(
            kind(revision=self.revision, at=self.now, node=name, visit=visit, **values)
        )

    # State

    def write(self, writes: Mapping[str, str | None], ttls: Mapping[str, float | None] = _NO_TTLS) -> None:
        """Set keys to texts; None deletes. A set to the value that the run holds is no change. `ttls` is as in `Outcome`."""
        changed = self.transition.state
        for key, text in writes.items():
            if is_same_text(self.run.state.get(key), text):
                changed.pop(key, None)
            else:
                changed[key] = text
        if ttls or self.run.expiring or self.transition.expiring:
            self._set_ends(writes, ttls)

    def _set_ends(self, writes: Mapping[str, str | None], ttls: Mapping[str, float | None]) -> None:
        changed = self.transition.expiring
        for key, text in writes.items():
            end = None
            if text is not None and key in ttls:
                ttl = ttls[key]
                if ttl is None:
                    continue
                end = float(math.ceil(min(self.now + ttl * 1000, _LAST_END)))
            if end == self.run.expiring.get(key):
                changed.pop(key, None)
            else:
                changed[key] = end

    def text(self, key: str) -> str | None:
        changed = self.transition.state
        return changed[key] if key in changed else self.run.state.get(key)

    def changed_since(self, names: Collection[str], node_names: Collection[str], revision: int) -> bool:
        """Whether what is read under these names, state keys or node results, has changed after `revision`."""
        for name in names:
            if self._key_changed(name) > revision:
                return True
            if self.text(name) is None and self._node_changed(name) > revision:
                return True
        return any(self._node_changed(name) > revision for name in node_names)

    def _key_changed(self, key: str) -> int:
        return self.revision if key in self.transition.state else self.run.revisions.get(key, 0)

    def _node_changed(self, name: str) -> int:
        index = self.plan.by_name.get(name)
        return 0 if index is None else self.node(index).changed

    # Expressions

    def true_decisions(self, flow: PlanFlow) -> list[PlanDecision]:
        """The decisions that are true now; the default if none is, an empty list if there is none either.

        Raises EvaluationError.
        """
        found: list[PlanDecision] = []
        for decision in flow.decisions:
            if not found if decision.condition is None else self.evaluate(decision.condition):
                found.append(decision)
                if flow.select_first:
                    break
        if not found and flow.default is not None:
            found.append(flow.default)
        return found

    def evaluate(self, expression: Expression) -> bool:
        """Whether the condition holds, computed once per text of what it reads. Raises EvaluationError."""
        read = (
            *(self._name_text(name) for name in sorted(expression.names)),
            *(self._node_text(name) for name in sorted(expression.node_names)),
        )
        known = self.run.evaluated.get(expression.text)
        if known is not None and known[0] == read:
            return known[1]
        holds = _truth(expression.evaluate(self._name_value, self._node_value, self._task(expression)))
        self.run.evaluated[expression.text] = (read, holds)
        return holds

    def holds_for(self, where: Expression, item: Any, index: ItemNumber) -> bool:
        """Whether a map's filter lets the item pass. Raises EvaluationError, UnstorableValue."""
        extra = {"item": item if is_plain(item) else seen_value(item, "item"), "index": index}
        return _truth(where.evaluate(self._name_value, self._node_value, self._task(where), extra))

    def _name_text(self, name: str) -> str | None:
        text = self.text(name)
        return self._node_text(name) if text is None else text

    def _node_text(self, name: str) -> str | None:
        """The result of a node that succeeded when it last settled; None where there is none to see.

        While it runs again it is still the last one; a map's is gone as soon as the items of the next visit are there.
        """
        index = self.plan.by_name.get(name)
        if index is None or self.node(index).settled_as is not NodeStatus.SUCCEEDED:
            return None
        if not self.plan.nodes[index].lists_results:
            return self.node(index).result
        change = self.transition.maps.get(index)
        if change is not None and change.results is not None:
            return change.results
        return self.run.map_results.get(index)

    def _name_value(self, name: str) -> Any:
        return self._decoded(name, self._name_text(name))

    def _node_value(self, name: str) -> Any:
        return self._decoded(f"nodes.{name}", self._node_text(name))

    def _decoded(self, name: str, text: str | None) -> Any:
        if text is None:
            return MISSING
        known = self.run.seen.get(name)
        if known is None or known[0] != text:
            known = self.run.seen[name] = (text, seen(text, name))
        return known[1]

    def _task(self, expression: Expression) -> Any:
        if not expression.reads_task:
            return None
        if _TASK not in self.run.seen:
            task = self.run.task
            fields = ("id", "type", "objective", "params", "metadata")
            text = encode({field: getattr(task, field) for field in fields}, "task")
            self.run.seen[_TASK] = (text, seen(text, "task"))
        return self.run.seen[_TASK][1]


def _truth(value: Any) -> bool:
    return value is not MISSING and bool(value)
