"""What follows from one input: nodes start, are skipped and settle until nothing more changes (rules 1 to 9).

What is below a node that settled is looked at in topological order until nothing more starts or is skipped; if no node
is active then, the supervisors decide; if they start nothing, the run is over. A node can only become ready through
something that settled after it was last considered, so the mask `fresh` of these nodes is all that needs a look.
`advance.py` says what each input settles or starts to begin with.
"""

from __future__ import annotations

from typing import Any

from graphflow import events
from graphflow.codec import decode_plain, encode
from graphflow.errors import EvaluationError, UnstorableValue
from graphflow.graph.modules import END
from graphflow.graph.tasks import RunStatus
from graphflow.ids import FIRST_MODULE, ItemNumber, NodeNumber, enumerate_modules
from graphflow.planning.plan import PlanDecision, PlanNode, PlanScope, bits
from graphflow.rules.draft import Draft
from graphflow.rules.effects import forget, send, suspend_if_only_waiting
from graphflow.rules.ending import Ending, end_result, ending
from graphflow.rules.explain import skip_reason
from graphflow.rules.readiness import Verdict, readiness
from graphflow.rules.retries import waits_for_retry
from graphflow.rules.supervise import failure_of, supervise
from graphflow.run import Failure, Message, ModuleState, NodeState, NodeStatus, Place, message_text

#: State key that lists the failures that were handed to an on_error node.
ERRORS_KEY = "errors"


def failure_entry(node: str, item: int | None, failure: Failure, attempts: int) -> dict[str, Any]:
    """What handlers and the error mailbox are told of something that has failed for good."""
    entry = {"node": node, "item": item, "error": failure.summary, "attempts": attempts}
    return entry | {"causes": [cause.told for cause in failure.causes]} if failure.causes else entry


class Fold:
    """One input and all that it causes, written into a draft."""

    def __init__(self, draft: Draft, draw: float = 0) -> None:
        self.draft = draft
        self.draw = draw
        self.plan = draft.plan
        self.transition = draft.transition
        self.revision = draft.revision
        self.over = False
        # Bit masks of nodes: to look at; to start once more; considered, and decided, because of this input.
        self._look = 0
        self._restart = 0
        self._considered = 0
        self._decided = 0

    # Starting, skipping, settling

    def start(self, index: NodeNumber) -> None:
        """Consider the node: its condition decides between start and skip (rule 3), then come the limits (rule 9)."""
        node = self.plan.nodes[index]
        if self._is_over(node) or (node.is_pure_flow and self._decided & node.bit):
            return
        if self.draft.limit_of(self.plan.scopes[node.scope]) is not None:
            return
        try:
            holds = node.condition is None or self.draft.evaluate(node.condition, node.prefix)
        except EvaluationError as error:
            self._consider(index).modules = [ModuleState() for _ in self.draft.node(index).modules]
            self.fail(index, failure_of(error))
            return
        if node.condition is not None and not holds:
            self.skip(index, f"its condition is false: {node.condition.text}")
            return
        if self._is_beyond_limit(node):
            return
        state = self._consider(index)
        forget(self.draft, index)
        state.visits += 1
        state.failure = None
        state.opened = 0
        state.reopened = state.dropped = False
        state.started = state.finished = 0
        state.crashes = 0
        if node.is_pure_flow:
            self.decide_by_flow(node)
            return
        self.transition.active |= node.bit
        if node.is_counted:
            self.draft.count_run(node)
        state.status = NodeStatus.READY
        state.modules = [ModuleState() for _ in node.modules]
        if node.inner is not None:
            state.modules[0].status = NodeStatus.READY
            self.transition.entering.append(index)
            return
        for place, module in enumerate_modules(state.modules if node.config.parallel else state.modules[:1]):
            module.status = NodeStatus.READY
            self.transition.ready.append((index, place))

    def _consider(self, index: NodeNumber) -> NodeState:
        state = self.draft.edit(index)
        state.considered = self.revision
        state.again = False
        self._considered |= 1 << index
        self.transition.fresh &= ~(1 << index)
        return state

    def _is_over(self, node: PlanNode) -> bool:
        """Whether the graph that the node stands in has come to its end, or has not begun."""
        return self.over or (node.scope > 0 and not self.draft.is_open(self.plan.scopes[node.scope]))

    def _is_beyond_limit(self, node: PlanNode) -> bool:
        limit, scope, state = (
            node.config.max_visits,
            self.plan.scopes[node.scope],
            self.draft.node(node.index),
        )
        if limit and state.visits - state.earlier >= limit:
            self.draft.reach_limit(f"node {node.name!r} reached max_visits={limit}", scope)
        elif node.is_counted and self.draft.iterations_of(scope) >= scope.max_total_iterations:
            whose = "the run" if scope.node is None else f"sub-graph {self.plan.nodes[scope.node].name!r}"
            self.draft.reach_limit(
                f"{whose} reached max_total_iterations={scope.max_total_iterations}", scope
            )
        return self.draft.limit_of(scope) is not None

    def skip(self, index: NodeNumber, reason: str) -> None:
        self._consider(index).chosen = None
        self.draft.emit_node(events.NodeSkipped, index, reason=reason)
        self.settle(index, NodeStatus.SKIPPED)

    def fail(self, index: NodeNumber, failure: Failure, item: ItemNumber | None = None) -> None:
        """The node failed for good; its on_error node, if it has one, takes over (rule 8)."""
        node, state = self.plan.nodes[index], self.draft.edit(index)
        state.failure = failure
        state.chosen = None
        state.reopened = False
        self.draft.emit_node(events.NodeFailed, index, error=failure.summary, attempts=state.attempts)
        if item is None:
            self.publish_failure(index, failure, None, state.attempts)
        self.settle(index, NodeStatus.FAILED)
        if state.again:
            state.again = False
            self._drop(index)
        if node.on_error is not None and state.handled < node.config.attempts:
            state.handled += 1
            self._record_error(node, state, failure, item)
            self.jump(node.on_error)

    def _record_error(
        self, node: PlanNode, state: NodeState, failure: Failure, item: ItemNumber | None
    ) -> None:
        key = node.prefix + ERRORS_KEY
        text = self.draft.text(key)
        known = decode_plain(text, key) if text else []
        entry = failure_entry(node.own_name, item, failure, state.attempts)
        self.draft.write({key: encode([*(known if isinstance(known, list) else []), entry], key)})

    def publish_failure(
        self, index: NodeNumber, failure: Failure, item: ItemNumber | None, attempts: int
    ) -> None:
        """Tell the error mailbox of the node's graph, if it has one, what failed for good."""
        node = self.plan.nodes[index]
        mailbox = self.plan.scopes[node.scope].error_mailbox
        if mailbox is None:
            return
        entry = failure_entry(node.own_name, item, failure, attempts)
        place = Place(index, self.draft.node(index).visits, FIRST_MODULE, item)
        text = message_text(f"{place.text(node.name)}:error", node.own_name, encode(entry))
        send(self.draft, [Message(node.prefix + mailbox, text)])

    def settle(self, index: NodeNumber, status: NodeStatus) -> None:
        """The node's visit is over, or it was skipped: whoever waited for it will be looked at."""
        node, state = self.plan.nodes[index], self.draft.edit(index)
        self.draft.show(index, status, state.result)
        state.status = status
        state.settled = self.revision
        state.finished = self.draft.now
        # Of a map that succeeded, only failed items are still remembered.
        forget(self.draft, index, keep_steps=status is NodeStatus.FAILED or node.map is not None)
        self.transition.active &= ~node.bit
        self.transition.fresh |= node.awaited_by & ~self._considered
        self._look |= node.descendants | node.bit
        for failed in node.handles:
            self._look |= self.plan.nodes[failed].descendants | 1 << failed
        if status is NodeStatus.SUCCEEDED:
            state.handled = 0
            if node.modules:
                elapsed = round(self.draft.now - state.started, 3) if state.started else 0
                self.draft.emit_node(events.NodeSucceeded, index, ms=elapsed)
            self._reopen(node, state)
        for follower in bits(node.streams_to & self.transition.active):
            self._end_stream(node, self.plan.nodes[follower], status)
        if node.map is not None and node.map.over_map and node.map.source_node is not None:
            self._give_back(node.map.source_node)
        if state.again and not self._is_lent(node):
            self._restart |= node.bit

    def open_stream(self, node: PlanNode) -> None:
        """The items of a map are there: pipelined maps over its results begin (rule 10)."""
        if node.streams_to:
            self.draft.edit(node.index).opened = self.revision
            self.transition.fresh |= node.streams_to & ~self._considered
            self._look |= node.streams_to

    def _end_stream(self, node: PlanNode, follower: PlanNode, status: NodeStatus) -> None:
        """A map has settled whose results the follower got one by one: that it has is nothing new to the follower."""
        state = self.draft.edit(follower.index)
        state.considered = self.revision
        self._considered |= follower.bit
        self.transition.fresh &= ~follower.bit
        if status is not NodeStatus.SUCCEEDED:
            failure = Failure("SourceFailed", f"{node.name!r}, over whose results it maps, failed")
            state.modules[0].status, state.modules[0].failure = NodeStatus.FAILED, failure
            self.transition.stopped |= follower.bit
            self.fail(follower.index, failure)

    def _is_lent(self, node: PlanNode) -> bool:
        """Whether a map is going through the node's records, which a new visit would replace (rule 10)."""
        return bool(node.lent_to & self.transition.active)

    def _give_back(self, index: NodeNumber) -> None:
        """What could not start while its records were in use is looked at."""
        node = self.plan.nodes[index]
        if not self._is_lent(node):
            self._look |= node.bit
            if self.draft.node(index).again and not self.draft.is_active(index):
                self._restart |= node.bit

    def _reopen(self, handler: PlanNode, state: NodeState) -> None:
        """What failed before its on_error node started may start again, now that this one has succeeded."""
        for index in handler.handles:
            failed = self.draft.node(index)
            if failed.status is NodeStatus.FAILED and failed.settled <= state.considered:
                self.draft.edit(index).reopened = True

    # Decisions (rule 5)

    def decide_by_flow(self, node: PlanNode) -> None:
        """The node's flow control decides on the state as it is now."""
        assert node.flow is not None
        try:
            fired = self.draft.true_decisions(node.flow, node.prefix)
        except EvaluationError as error:
            self.fail(node.index, failure_of(error))
            return
        self.decide(node, fired)

    def decide(self, node: PlanNode, fired: list[PlanDecision]) -> None:
        """For dependents the choice is the state of the edge, other targets are jumps; without any it falls through."""
        self._decided |= node.bit
        edges = sum(1 << below for below in node.dependents)
        chosen = 0 if fired else edges
        for decision in fired:
            chosen |= sum(1 << target for target in decision.targets)
            self.draft.write({node.prefix + key: None for key in decision.clears})
        ends = any(decision.ends for decision in fired)
        self.draft.edit(node.index).chosen = chosen
        self._report_decision(node.index, chosen, ends)
        self.settle(node.index, NodeStatus.SUCCEEDED)
        if ends:
            self.end(f"{node.name!r} decided END", self.plan.scopes[node.scope])
            return
        for target in bits(chosen & ~edges):
            self.jump(target)

    def _report_decision(self, index: NodeNumber, chosen: int, ends: bool) -> None:
        names = " ".join((*self.plan.names(chosen), *([END] if ends else [])))
        self.draft.emit_node(events.DecisionFired, index, chosen=names)

    def jump(self, index: NodeNumber) -> None:
        """Start the node at once whatever its dependencies did; if it is active, once more when it has settled."""
        if self._is_over(self.plan.nodes[index]):
            return
        state = self.draft.node(index)
        if self._is_lent(self.plan.nodes[index]) and not self.draft.is_active(index):
            self.draft.edit(index).again = True
        elif self.draft.is_active(index):
            # What this very input started has read nothing yet: the request is met by that start.
            if state.considered != self.revision:
                self.draft.edit(index).again = True
        elif state.is_closed:
            self._drop(index)
        else:
            self.start(index)

    def _drop(self, index: NodeNumber) -> None:
        """Report, once per failure, that a decision named a failed node."""
        state = self.draft.edit(index)
        if not state.dropped:
            state.dropped = True
            self.draft.emit_node(events.DecisionDropped, index, target=self.plan.nodes[index].name)

    # Going on until nothing more follows

    def look_everywhere(self) -> None:
        """Where a run begins with the state of another: what was asked for, and all that has not seen what is new."""
        self._look |= self.transition.fresh
        for node in self.plan.nodes:
            is_busy = self.draft.is_active(node.index) or self._is_lent(node)
            if self.draft.node(node.index).again and not is_busy:
                self._restart |= node.bit

    def go_on(self) -> None:
        while not self.over:
            self._look_below()
            if self.over:
                return
            scope = self._idle_scope()
            if scope is None:
                suspend_if_only_waiting(self.draft)
                return
            if self.draft.limit_of(scope) is not None or not self._supervise(scope):
                self._conclude(scope, ending(self.draft, scope, by_end=False))

    def _idle_scope(self) -> PlanScope | None:
        """A graph under way in which nothing is active, one of the deepest of these; None if there is none."""
        active = self.transition.active
        if not active:
            return self.plan.scopes[0]
        idle = None
        for index in bits(active & self.plan.subgraphs):
            scope = self.plan.scopes[self.plan.nodes[index].inner or 0]
            if not active & scope.members and self.draft.is_open(scope):
                idle = scope if idle is None or scope.depth > idle.depth else idle
        return idle

    def _look_below(self) -> None:
        while not self.over:
            if self._restart:
                self._start_again()
                continue
            candidates = (
                self._look & (self.transition.fresh | self.plan.settled_mask) & ~self.transition.active
            )
            if not candidates:
                self._look = 0
                return
            bit = candidates & -candidates
            self._look ^= bit
            node = self.plan.nodes[bit.bit_length() - 1]
            if self._is_lent(node):
                continue
            masks = self.transition.active, self.transition.fresh
            match readiness(self.plan, self.draft.node, *masks, node.index):
                case Verdict.START:
                    self.start(node.index)
                case Verdict.SKIP:
                    self.skip(node.index, skip_reason(self.plan, self.draft.node, node.index))

    def _start_again(self) -> None:
        """First of all, so that nothing below is joined with a result about to be replaced."""
        bit = self._restart & -self._restart
        self._restart ^= bit
        index = self.plan.nodes[bit.bit_length() - 1].index
        if self.draft.node(index).again:
            self.draft.edit(index).again = False
            self.start(index)

    def _supervise(self, scope: PlanScope) -> bool:
        """The graph is idle: carry out what its supervisors decide. False if that is nothing (rule 6)."""
        found = supervise(self.draft, scope)
        for target in found.dropped:
            self._drop(target)
        for index, failure in found.failures.items():
            self.fail(index, failure)
        if any(self._is_beyond_limit(self.plan.nodes[index]) for index in found.fired):
            return True
        self.draft.write(dict.fromkeys(found.clears))
        for index, targets in found.fired.items():
            self._note_supervision(index, targets)
        for target in found.targets:
            self.jump(target)
        if found.fired and not found.targets:
            self.end("a supervisor decided END", scope)
        return bool(found.fired or found.failures)

    def _note_supervision(self, index: NodeNumber, targets: list[NodeNumber]) -> None:
        state = self._consider(index)
        state.status = state.settled_as = NodeStatus.SUCCEEDED
        state.settled = self.revision
        state.visits += 1
        state.handled = 0
        state.failure = None
        state.reopened = state.dropped = False
        state.chosen = sum(1 << target for target in dict.fromkeys(targets))
        self._report_decision(index, state.chosen, ends=not targets)

    # The end

    def end(self, reason: str, scope: PlanScope) -> None:
        """END: nothing more starts in this graph, what runs in it is cancelled; the status follows from what has settled."""
        self.stop_active(reason, scope.within)
        self._conclude(scope, ending(self.draft, scope, by_end=True))

    def stop_active(self, reason: str, within: int) -> None:
        """Stop what is active of these nodes, a bit mask; the graphs of sub-graphs among them are over."""
        stopped = self.transition.active & within
        for index in bits(stopped):
            state = self.draft.edit(index)
            state.status = state.settled_as
            state.finished = self.draft.now
            state.again = False
            forget(self.draft, index, keep_steps=True)
            for module in state.modules:
                if module.status.is_active:
                    module.status = NodeStatus.PENDING
            self.draft.emit_node(events.NodeStopped, index, reason=reason)
            if (inner := self.plan.nodes[index].inner) is not None:
                self._close(self.plan.scopes[inner])
        self.transition.stopped |= stopped
        self.transition.active &= ~stopped
        self.transition.ready = [entry for entry in self.transition.ready if not stopped >> entry[0] & 1]
        self.transition.entering = [index for index in self.transition.entering if not stopped >> index & 1]

    def _conclude(self, scope: PlanScope, how: Ending) -> None:
        """The graph has come to its end: with it the run, or an attempt of the sub-graph."""
        if scope.node is None:
            self.finish(how)
            return
        self._close(scope)
        node = self.plan.nodes[scope.node]
        if how.status is RunStatus.FAILED:
            self.fail_graph(node, Failure("SubgraphFailed", how.error or "it failed"))
            return
        result = end_result(self.draft, scope)
        writes: dict[str, str | None] = {node.name: result}
        try:
            for copy in scope.outputs:
                writes[node.prefix + copy.key] = self.draft.copied(copy, scope.prefix)
        except (EvaluationError, UnstorableValue) as error:
            self.fail_graph(node, failure_of(error))
            return
        self.draft.write(writes)
        module = self.draft.edit(node.index).modules[0]
        module.status, module.result, module.failure = NodeStatus.SUCCEEDED, result, None
        module.attempts += 1
        self.draft.show(node.index, NodeStatus.SUCCEEDED, result)
        self.settle(node.index, NodeStatus.SUCCEEDED)

    def _close(self, scope: PlanScope) -> None:
        """Nothing inside is looked at or starts again until it is entered."""
        self.transition.fresh &= ~scope.within
        self._look &= ~scope.within
        self._restart &= ~scope.within

    def fail_graph(self, node: PlanNode, failure: Failure) -> None:
        """One attempt of a sub-graph has failed: it waits for the next one, or the node has failed."""
        self.draft.edit(node.index).modules[0].attempts += 1
        if not waits_for_retry(self.draft, node, FIRST_MODULE, failure, self.draw):
            self.fail(node.index, failure)

    def finish(self, how: Ending) -> None:
        self.over = True
        self.transition.status = how.status
        self.transition.error = how.error
        self.transition.held = how.held
        self.transition.finished = self.draft.now
        self.draft.emit(events.RunFinished, status=how.status.value, error=how.error or "")
