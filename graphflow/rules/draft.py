"""A transition in the making: the run as it would be, readable while the rules are still deciding.

Reads look through to the run, writes stay in the transition. Expressions are evaluated here, against the draft, once
per text and per change of what they read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from graphflow.codec import encode, is_plain
from graphflow.codec.canonical import is_same_text
from graphflow.events import Event, LimitReached, NodeEvent
from graphflow.expressions import MISSING, Expression, seen, seen_value
from graphflow.ids import ItemNumber, NodeNumber
from graphflow.planning.plan import Plan, PlanCopy, PlanDecision, PlanFlow, PlanNode, PlanScope
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

    def limit_of(self, scope: PlanScope) -> str | None:
        """The limit that keeps the graph's own nodes from starting, as a sentence."""
        if scope.node is None:
            return self.transition.limit or self.run.limit
        graph = self.node(scope.node).graph
        return None if graph is None else graph.limit

    def reach_limit(self, reason: str, scope: PlanScope) -> None:
        """Nothing of the graph's own nodes starts any more; what is active comes to its end, sub-graphs included."""
        if self.limit_of(scope) is not None:
            return
        self.emit(LimitReached, error=reason)
        if scope.node is None:
            self.transition.limit = reason
            return
        state = self.edit(scope.node)
        assert state.graph is not None
        state.graph = replace(state.graph, limit=reason)

    def iterations_of(self, scope: PlanScope) -> int:
        """Node runs in the graph, flow control not counted."""
        if scope.node is None:
            return self.transition.iterations
        graph = self.node(scope.node).graph
        return 0 if graph is None else graph.iterations

    def count_run(self, node: PlanNode) -> None:
        """One more node run in the graph that the node stands in."""
        outer = self.plan.scopes[node.scope].node
        if outer is None:
            self.transition.iterations += 1
            return
        state = self.edit(outer)
        assert state.graph is not None
        state.graph = replace(state.graph, iterations=state.graph.iterations + 1)

    def is_open(self, scope: PlanScope) -> bool:
        """Whether the graph is under way: it was entered and is not over."""
        return scope.node is None or self.node(scope.node).has_entered

    def is_active(self, index: NodeNumber) -> bool:
        return bool(self.transition.active >> index & 1)

    def is_opened(self, index: NodeNumber) -> bool:
        """Whether it is a map whose items are those of its present visit."""
        change, visit = self.transition.maps.get(index), self.node(index).visits
        is_opening = change is not None and change.opened is not None and change.visit == visit
        return is_opening or self.run.opened_map(index, visit) is not None

    def unfinished(self, index: NodeNumber) -> int:
        """Items of a map's present visit that have no record."""
        change, visit = self.transition.maps.get(index), self.node(index).visits
        opened = self.run.opened_map(index, visit)
        known = 0 if opened is None else len(opened.unfinished)
        if change is None or change.visit != visit:
            return known
        if change.opened is not None:
            return len(change.opened)
        return known + len(change.added) - len(change.done) - len(change.failed)

    def has_more(self, index: NodeNumber) -> bool:
        """Whether the source of a map's present visit has not come to its end."""
        change, visit = self.transition.maps.get(index), self.node(index).visits
        if change is not None and change.visit == visit and change.has_more is not None:
            return change.has_more
        opened = self.run.opened_map(index, visit)
        return opened is not None and opened.has_more and (change is None or change.opened is None)

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

    def changed_since(
        self, names: Collection[str], node_names: Collection[str], revision: int, prefix: str
    ) -> bool:
        """Whether what is read under these names, state keys or node results of one graph, has changed after `revision`."""
        for name in (prefix + name for name in names):
            if self._key_changed(name) > revision:
                return True
            if self.text(name) is None and self._node_changed(name) > revision:
                return True
        return any(self._node_changed(prefix + name) > revision for name in node_names)

    def _key_changed(self, key: str) -> int:
        return self.revision if key in self.transition.state else self.run.revisions.get(key, 0)

    def _node_changed(self, name: str) -> int:
        index = self.plan.by_name.get(name)
        return 0 if index is None else self.node(index).changed

    # Expressions. They see the keys, the nodes and the task of one graph: what its names begin with is `prefix`.

    def true_decisions(self, flow: PlanFlow, prefix: str) -> list[PlanDecision]:
        """The decisions that are true now; the default if none is, an empty list if there is none either.

        Raises EvaluationError.
        """
        found: list[PlanDecision] = []
        for decision in flow.decisions:
            if not found if decision.condition is None else self.evaluate(decision.condition, prefix):
                found.append(decision)
                if flow.select_first:
                    break
        if not found and flow.default is not None:
            found.append(flow.default)
        return found

    def evaluate(self, expression: Expression, prefix: str) -> bool:
        """Whether the condition holds, computed once per text of what it reads. Raises EvaluationError."""
        read = (
            *(self._name_text(prefix + name) for name in sorted(expression.names)),
            *(self._node_text(prefix + name) for name in sorted(expression.node_names)),
        )
        place = expression.text
        if prefix:
            place = f"{prefix}\0{place}"
            read = (*read, self._given(prefix) if expression.reads_task else None)
        known = self.run.evaluated.get(place)
        if known is not None and known[0] == read:
            return known[1]
        holds = _truth(self.value(expression, prefix))
        self.run.evaluated[place] = (read, holds)
        return holds

    def value(self, expression: Expression, prefix: str, extra: Mapping[str, Any] | None = None) -> Any:
        """What the expression comes to, MISSING included. Raises EvaluationError."""
        names, nodes = self._name_value, self._node_value
        if prefix:
            names, nodes = partial(self._inside, names, prefix), partial(self._inside, nodes, prefix)
        return expression.evaluate(names, nodes, self._task(expression, prefix), extra)

    def copied(self, copy: PlanCopy, prefix: str) -> str | None:
        """The text of what crosses the border of a sub-graph; None if it is missing. EvaluationError, UnstorableValue."""
        if copy.is_name:
            return self._name_text(prefix + copy.value.text.strip())
        value = self.value(copy.value, prefix)
        return None if value is MISSING else encode(value, copy.key)

    def holds_for(self, where: Expression, item: Any, index: ItemNumber, prefix: str) -> bool:
        """Whether a map's filter lets the item pass. Raises EvaluationError, UnstorableValue."""
        extra = {"item": item if is_plain(item) else seen_value(item, "item"), "index": index}
        return _truth(self.value(where, prefix, extra))

    @staticmethod
    def _inside(read: Callable[[str], Any], prefix: str, name: str) -> Any:
        return read(prefix + name)

    def _given(self, prefix: str) -> str:
        """The inputs of the sub-graph whose names begin so."""
        graph = self.node(self.plan.by_name[prefix[:-1]]).graph
        return "{}" if graph is None else graph.inputs

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

    def _task(self, expression: Expression, prefix: str) -> Any:
        if not expression.reads_task:
            return None
        if _TASK not in self.run.seen:
            task = self.run.task
            fields = ("id", "type", "objective", "params", "metadata")
            text = encode({field: getattr(task, field) for field in fields}, "task")
            self.run.seen[_TASK] = (text, seen(text, "task"))
        task = self.run.seen[_TASK][1]
        if not prefix:
            return task
        node = self.plan.nodes[self.plan.by_name[prefix[:-1]]]
        return {**task, "type": node.own_name, "params": seen(self._given(prefix), "inputs")}


def _truth(value: Any) -> bool:
    return value is not MISSING and bool(value)
