"""What happens next: the rules of docs/rules.md as one pure fold over a run.

`advance` looks at the plan, the run and one input, and returns everything that changes because of it; `apply` brings
the run up to date with that. No I/O, no clock, no randomness: `now` (ms since 1970) and `draw` (in [0, 1), for the
jitter of a back-off) are arguments, so that a run can be replayed from its recorded outcomes.

How one fold goes: the input settles or starts something; what is below a node that settled is looked at in topological
order until nothing more starts or is skipped; if no node is active then, the supervisors decide; if they start nothing,
the run is over. A node can only become ready through a dependency that settled after it was last considered, so
`fresh`, the mask of these nodes, is all that needs a look.
"""

from __future__ import annotations

import json

from graphflow import events
from graphflow.engine.draft import Draft
from graphflow.engine.explain import Verdict, readiness, stall_reason
from graphflow.engine.plan import Plan, PlanDecision, PlanNode, bits
from graphflow.errors import EvaluationError
from graphflow.graph.modules import END
from graphflow.graph.tasks import RunStatus
from graphflow.run import (
    Begin,
    Failure,
    Input,
    ItemOutcomes,
    ItemsStored,
    MapChange,
    MapState,
    ModuleState,
    NodeState,
    NodeStatus,
    Outcome,
    RetryDue,
    Run,
    Started,
    StateSet,
    Stop,
    Transition,
)
from graphflow.settings import BACKOFF_BASE_SECONDS, BACKOFF_FACTOR, BACKOFF_MAX_SECONDS

#: State key that holds the failures that were handed to an on_error node.
ERRORS_KEY = "errors"

_ACTIVE = (NodeStatus.RUNNING, NodeStatus.READY, NodeStatus.WAITING)


def advance(plan: Plan, run: Run, outcome: Input, now: float, draw: float) -> Transition:
    """Everything that changes because of `outcome`; the run itself stays as it is."""
    fold = _Fold(Draft(plan, run, run.revision + _weight(outcome), now), draw)
    match outcome:
        case Started(node, module):
            fold.admit(node, module)
        case RetryDue(node, module):
            fold.retry(node, module)
        case _:
            fold.take(outcome)
    return fold.draft.transition


def apply(run: Run, transition: Transition, plan: Plan) -> None:
    """Bring the mirror up to date with what was decided."""
    for index, state in transition.nodes.items():
        run.nodes[index] = state
    for key, text in transition.state.items():
        if (text is None) != (key not in run.state):
            run.keys_revision = transition.revision
        if text is None:
            run.state.pop(key, None)
        else:
            run.state[key] = text
        run.revisions[key] = transition.revision
    for index, change in transition.maps.items():
        _apply_map(run, index, change)
    run.revision = transition.revision
    run.active = transition.active
    run.fresh = transition.fresh
    run.iterations = transition.iterations
    run.limit = transition.limit or run.limit
    run.error = transition.error or run.error
    run.held = transition.held or run.held
    run.started = transition.started or run.started
    run.finished = transition.finished or run.finished
    run.status = transition.status or run.status


def _apply_map(run: Run, index: int, change: MapChange) -> None:
    if change.opened is not None:
        unfinished = {item for item, _ in change.opened}
        run.maps[index] = MapState(change.visit, len(change.opened), unfinished=unfinished)
        run.map_results.pop(index, None)
    state = run.maps[index]
    state.done += len(change.done)
    state.failed += len(change.failed)
    state.retried += change.retried
    state.unfinished.difference_update(item for item, _ in change.done)
    state.unfinished.difference_update(item for item, _, _ in change.failed)
    if change.results is not None:
        run.map_results[index] = change.results


def _weight(outcome: Input) -> int:
    """By how much the revision grows: it counts outcomes, each item of a batch by itself."""
    match outcome:
        case Started() | RetryDue():
            return 0
        case ItemOutcomes(done=done, failed=failed):
            return max(1, len(done) + len(failed))
        case _:
            return 1


class _Fold:
    """One input and all that it causes."""

    def __init__(self, draft: Draft, draw: float) -> None:
        self.draft = draft
        self.plan = draft.plan
        self.transition = draft.transition
        self.revision = draft.revision
        self.draw = draw
        self.over = False
        #: Nodes to look at, as a bit mask.
        self.look = 0
        #: What decided already because of this outcome: a flow control decides at most once per outcome.
        self.decided = 0

    def admit(self, index: int, module: int) -> None:
        state = self.draft.edit(index)
        state.modules[module].status = NodeStatus.RUNNING
        if state.status is not NodeStatus.RUNNING:
            state.status = NodeStatus.RUNNING
            if not state.started:
                state.started = self.draft.now
                self.draft.emit_node(events.NodeStarted, index)

    def retry(self, index: int, module: int) -> None:
        state = self.draft.edit(index)
        state.modules[module].status = NodeStatus.READY
        state.modules[module].retry_at = 0
        state.status = _status_of(state)
        self.transition.ready.append((index, module))

    def take(self, outcome: Input) -> None:
        match outcome:
            case Begin():
                self._begin()
            case Outcome():
                self._module_outcome(outcome)
            case ItemsStored():
                self._items_stored(outcome)
            case ItemOutcomes():
                self._item_outcomes(outcome)
            case StateSet(writes):
                self.draft.write(writes)
            case Stop(status, reason):
                self._stop(status, reason)
        self._go_on()

    # What comes in

    def _begin(self) -> None:
        self.transition.status = RunStatus.EXECUTING
        self.transition.started = self.draft.now
        self.draft.emit(events.RunStarted)
        for node in self.plan.nodes:
            if node.starts:
                self._start(node.index)

    def _module_outcome(self, outcome: Outcome) -> None:
        index = outcome.node
        state = self.draft.edit(index)
        module = state.modules[outcome.module]
        module.attempts += 1
        if outcome.failure is not None:
            self._module_failed(index, outcome.module, outcome.failure)
            return
        self.draft.write(outcome.writes)
        module.status = NodeStatus.SUCCEEDED
        module.result = outcome.result
        module.failure = None
        node = self.plan.nodes[index]
        if node.modules[outcome.module].module.config.stop_on_success:
            for later in state.modules[outcome.module + 1 :]:
                if later.status is NodeStatus.PENDING:
                    later.status = NodeStatus.SKIPPED
        self._next_module(index, outcome.decision)

    def _next_module(self, index: int, decision: tuple[str, ...] | None = None) -> None:
        """After one module of the node came to an end: the next one, or the end of the visit."""
        node, state = self.plan.nodes[index], self.draft.edit(index)
        failed = next((module.failure for module in state.modules if module.status is NodeStatus.FAILED), None)
        if any(module.status in _ACTIVE for module in state.modules):
            state.status = _status_of(state)
            return
        if failed is not None:
            self._fail(index, failed)
            return
        for place, module in enumerate(state.modules):
            if module.status is NodeStatus.PENDING:
                module.status = NodeStatus.READY
                state.status = NodeStatus.READY
                self.transition.ready.append((index, place))
                return
        self._visit_done(node, state, decision)

    def _visit_done(self, node: PlanNode, state: NodeState, decision: tuple[str, ...] | None) -> None:
        last = next(module for module in reversed(state.modules) if module.status is NodeStatus.SUCCEEDED)
        if state.result != last.result or state.settled_as is not NodeStatus.SUCCEEDED:
            state.changed = self.revision
        state.result = last.result
        if node.flow is not None:
            self._decide_by_flow(node)
        elif node.returns is not None:
            self._decide(node, self._returned(node, decision))
        else:
            self._settle(node.index, NodeStatus.SUCCEEDED)

    def _returned(self, node: PlanNode, decision: tuple[str, ...] | None) -> list[PlanDecision]:
        if decision is None:
            return []
        targets = tuple(self.plan.by_name[name] for name in decision if name != END)
        return [PlanDecision(targets, END in decision, None, (), False, "returned")]

    def _module_failed(self, index: int, place: int, failure: Failure) -> None:
        node, state = self.plan.nodes[index], self.draft.edit(index)
        module = state.modules[place]
        module.failure = failure
        if not failure.retryable or module.attempts >= node.config.attempts:
            module.status = NodeStatus.FAILED
            self._next_module(index)
            return
        delay = backoff_seconds(module.attempts, self.draw)
        module.status = NodeStatus.WAITING
        module.retry_at = self.draft.now + delay * 1000
        self.transition.delayed.append((index, place, module.retry_at))
        state.status = _status_of(state)
        self.draft.emit_node(
            events.RetryScheduled,
            index,
            module=node.modules[place].name,
            attempt=module.attempts + 1,
            error=failure.summary,
            delay=round(delay, 3),
        )

    def _items_stored(self, outcome: ItemsStored) -> None:
        index = outcome.node
        if outcome.failure is not None:
            self.draft.edit(index).modules[0].attempts += 1
            self._module_failed(index, 0, outcome.failure)
            return
        self.transition.maps[index] = MapChange(outcome.visit, opened=outcome.items)
        self.draft.emit_node(events.MapOpened, index, total=len(outcome.items))
        if not outcome.items:
            self._map_done(index, failed=0, done=0, results="[]")

    def _item_outcomes(self, outcome: ItemOutcomes) -> None:
        index = outcome.node
        self.draft.write(outcome.writes)
        self.transition.maps[index] = MapChange(
            outcome.visit,
            done=outcome.done,
            failed=outcome.failed,
            retried=outcome.retried,
            results=outcome.results,
        )
        if outcome.done:
            indexes = events.index_ranges([item for item, _ in outcome.done])
            self.draft.emit_node(events.ItemsFinished, index, count=len(outcome.done), indexes=indexes)
        for item, failure, attempts in outcome.failed:
            self.draft.emit_node(events.ItemFailed, index, index=item, error=failure.summary, attempts=attempts)
        current = self.draft.run.maps[index]
        done, failed = current.done + len(outcome.done), current.failed + len(outcome.failed)
        if outcome.failed and self.plan.nodes[index].map.fail_fast:  # type: ignore[union-attr]
            item, failure, _ = outcome.failed[0]
            self.transition.stopped |= 1 << index
            self._map_failed(index, Failure(failure.type, f"item {item}: {failure.message}", failure.traceback))
        elif done + failed == current.total:
            self._map_done(index, failed, done, outcome.results, outcome.failed)

    def _map_done(
        self,
        index: int,
        failed: int,
        done: int,
        results: str | None,
        last_failed: list[tuple[int, Failure, int]] | None = None,
    ) -> None:
        if failed and not done:
            last = f"; the last, item {last_failed[-1][0]}: {last_failed[-1][1].summary}" if last_failed else ""
            self._map_failed(index, Failure("AllItemsFailed", f"all {failed} items failed{last}"))
            return
        if results is not None:
            self.transition.maps[index].results = results
        state = self.draft.edit(index)
        state.modules[0].status = NodeStatus.SUCCEEDED
        state.changed = self.revision
        self._settle(index, NodeStatus.SUCCEEDED)

    def _map_failed(self, index: int, failure: Failure) -> None:
        module = self.draft.edit(index).modules[0]
        module.status = NodeStatus.FAILED
        module.failure = failure
        self._fail(index, failure)

    def _stop(self, status: RunStatus, reason: str) -> None:
        if status is RunStatus.FAILED:
            self._limit(reason)
        self._stop_active(reason)
        self._finish(status if status is RunStatus.CANCELLED else None, reason)

    # Starting, skipping, settling

    def _start(self, index: int) -> None:
        """Consider the node for a start (rule 3: the condition decides between start and skip)."""
        node, state = self.plan.nodes[index], self.draft.edit(index)
        if self.over or self.draft.run.limit or self.transition.limit:
            return
        state.considered = self.revision
        self.transition.fresh &= ~node.bit
        if node.condition is not None:
            try:
                holds = self.draft.evaluate(node.condition)
            except EvaluationError as error:
                self._fail(index, _failure_of(error))
                return
            if not holds:
                self._skip(index, f"its condition is false: {node.condition.text}")
                return
        if not self._within_limits(node, state):
            return
        state.visits += 1
        state.failure = None
        state.reopened = state.dropped = False
        state.started = state.finished = 0
        if node.is_pure_flow:
            self._decide_by_flow(node)
            return
        self.transition.active |= node.bit
        self.transition.iterations += 1
        state.status = NodeStatus.READY
        state.modules = [ModuleState() for _ in node.modules]
        for place in range(len(node.modules) if node.config.parallel else 1):
            state.modules[place].status = NodeStatus.READY
            self.transition.ready.append((index, place))

    def _within_limits(self, node: PlanNode, state: NodeState) -> bool:
        if node.config.max_visits and state.visits >= node.config.max_visits:
            self._limit(f"node {node.name!r} reached max_visits={node.config.max_visits}")
            return False
        if not node.is_pure_flow and self.transition.iterations >= self.plan.max_total_iterations:
            self._limit(f"the run reached max_total_iterations={self.plan.max_total_iterations}")
            return False
        return True

    def _limit(self, reason: str) -> None:
        if self.draft.run.limit is None and self.transition.limit is None:
            self.transition.limit = reason
            self.draft.emit(events.LimitReached, error=reason)

    def _skip(self, index: int, reason: str) -> None:
        state = self.draft.edit(index)
        state.considered = self.revision
        self.transition.fresh &= ~(1 << index)
        if self.plan.nodes[index].decides:
            state.chosen = 0
        if state.settled_as is not NodeStatus.SKIPPED:
            state.changed = self.revision
        self.draft.emit_node(events.NodeSkipped, index, reason=reason)
        self._settle(index, NodeStatus.SKIPPED)

    def _fail(self, index: int, failure: Failure) -> None:
        """The node failed for good; its on_error node, if it has one, takes over (rule 8)."""
        node, state = self.plan.nodes[index], self.draft.edit(index)
        state.failure = failure
        state.again = False
        state.changed = self.revision
        if node.decides:
            state.chosen = 0
        self.draft.emit_node(events.NodeFailed, index, error=failure.summary, attempts=state.attempts)
        self._settle(index, NodeStatus.FAILED)
        if node.on_error is not None and state.handled < node.config.attempts:
            state.handled += 1
            self._record_error(node, state, failure)
            self._jump(node.on_error)

    def _record_error(self, node: PlanNode, state: NodeState, failure: Failure) -> None:
        known = self.draft.text(ERRORS_KEY)
        entries = json.loads(known) if known else []
        entries.append({"node": node.name, "item": None, "error": failure.summary, "attempts": state.attempts})
        self.draft.write({ERRORS_KEY: json.dumps(entries, ensure_ascii=False, separators=(",", ":"))})

    def _settle(self, index: int, status: NodeStatus) -> None:
        node, state = self.plan.nodes[index], self.draft.edit(index)
        state.status = state.settled_as = status
        state.settled = self.revision
        state.finished = self.draft.now
        self.transition.active &= ~node.bit
        for below in node.dependents:
            self.transition.fresh |= 1 << below
        self.look |= node.descendants | node.bit
        if status is NodeStatus.SUCCEEDED:
            state.handled = 0
            if node.modules:
                elapsed = round(self.draft.now - state.started, 3) if state.started else 0
                self.draft.emit_node(events.NodeSucceeded, index, ms=elapsed)
            self._reopen(node, state)
        if state.again and not self.over:
            state.again = False
            self._start(index)

    def _reopen(self, handler: PlanNode, state: NodeState) -> None:
        """The nodes that failed before their on_error node started, and may start again now that it succeeded."""
        for index in handler.handles:
            failed = self.draft.node(index)
            if failed.status is NodeStatus.FAILED and failed.settled <= state.considered:
                self.draft.edit(index).reopened = True
                self.look |= 1 << index
                self.transition.fresh |= 1 << index

    # Decisions

    def _decide_by_flow(self, node: PlanNode) -> None:
        assert node.flow is not None
        try:
            fired = self.draft.true_decisions(node.flow)
        except EvaluationError as error:
            self._fail(node.index, _failure_of(error))
            return
        self._decide(node, fired)

    def _decide(self, node: PlanNode, fired: list[PlanDecision]) -> None:
        """Rule 5: chosen dependents count as succeeded edges, other targets are jumps; nothing fired falls through."""
        if self.decided & node.bit:
            return
        self.decided |= node.bit
        state = self.draft.edit(node.index)
        state.chosen = 0
        for target in (target for decision in fired for target in decision.targets):
            state.chosen |= 1 << target
        ends = any(decision.ends for decision in fired)
        if not fired:
            for below in node.dependents:
                state.chosen |= 1 << below
        for decision in fired:
            self.draft.write(dict.fromkeys(decision.clears))
        names = " ".join((*self.plan.names(state.chosen), *([END] if ends else [])))
        self.draft.emit_node(events.DecisionFired, node.index, chosen=names)
        if ends:
            self._settle(node.index, NodeStatus.SUCCEEDED)
            self._end(f"{node.name!r} decided END")
            return
        for target in bits(state.chosen):
            if target not in node.dependents:
                self._jump(target)
        self._settle(node.index, NodeStatus.SUCCEEDED)

    def _jump(self, index: int) -> None:
        """Start the node at once whatever its dependencies did; once more after its settling if it is active."""
        if self.over:
            return
        state = self.draft.edit(index)
        if self.draft.is_active(index):
            state.again = True
        elif state.status is NodeStatus.FAILED and not state.reopened:
            if not state.dropped:
                state.dropped = True
                self.draft.emit_node(events.DecisionDropped, index, target=self.plan.nodes[index].name)
        else:
            self._start(index)

    def _end(self, reason: str) -> None:
        """END: nothing more starts, what runs is cancelled; the status follows from what has settled."""
        self._stop_active(reason)
        self._finish(None, None, ended=True)

    def _stop_active(self, reason: str) -> None:
        for index in bits(self.transition.active):
            state = self.draft.edit(index)
            state.status = state.settled_as
            state.again = False
            self.draft.emit_node(events.NodeStopped, index, reason=reason)
        self.transition.stopped |= self.transition.active
        self.transition.active = 0
        self.transition.ready.clear()

    # Going on until nothing more follows

    def _go_on(self) -> None:
        fired: set[tuple[int, int]] = set()
        while not self.over:
            self._look_below()
            if self.over or self.transition.active:
                return
            if self.draft.run.limit or self.transition.limit or not self._supervise(fired):
                self._finish(None, None)

    def _look_below(self) -> None:
        while not self.over:
            candidates = self.look & (self.transition.fresh | self.plan.settled_mask) & ~self.transition.active
            if not candidates:
                self.look = 0
                return
            bit = candidates & -candidates
            self.look &= ~bit
            index = bit.bit_length() - 1
            match readiness(self.plan, self.draft.node, self.transition.active, index):
                case Verdict.START:
                    self._start(index)
                case Verdict.SKIP:
                    self._skip(index, "nothing that it depends on chose or reached it")

    def _supervise(self, fired: set[tuple[int, int]]) -> bool:
        """Rule 6: the run is idle, so the supervisors decide. All targets are found before any starts."""
        targets: list[tuple[int, int]] = []
        clears: list[str] = []
        ends = False
        for index in self.plan.supervisors:
            node = self.plan.nodes[index]
            try:
                decisions = self.draft.true_decisions(node.flow)  # type: ignore[arg-type]
            except EvaluationError as error:
                if self.draft.node(index).status is not NodeStatus.FAILED:
                    self._fail(index, _failure_of(error))
                continue
            for decision in decisions:
                ends = ends or decision.ends
                chosen = [target for target in decision.targets if self._may_fire(node, decision, target, fired)]
                targets.extend((index, target) for target in chosen)
                clears.extend(decision.clears if chosen else ())
        if not targets:
            if ends:
                self._end("a supervisor decided END")
            return ends
        self.draft.write(dict.fromkeys(clears))
        for index in dict.fromkeys(supervisor for supervisor, _ in targets):
            self._note_supervision(index, [target for supervisor, target in targets if supervisor == index])
        fired.update(targets)
        for target in dict.fromkeys(target for _, target in targets):
            self._jump(target)
        return True

    def _note_supervision(self, index: int, targets: list[int]) -> None:
        state = self.draft.edit(index)
        state.status = state.settled_as = NodeStatus.SUCCEEDED
        state.visits += 1
        state.considered = state.settled = self.revision
        state.chosen = sum(1 << target for target in dict.fromkeys(targets))
        self.draft.emit_node(events.DecisionFired, index, chosen=" ".join(self.plan.names(state.chosen)))

    def _may_fire(self, node: PlanNode, decision: PlanDecision, target: int, fired: set[tuple[int, int]]) -> bool:
        """Refraction: only for a target never considered, or if what the condition reads changed since it was."""
        if target == node.index or (node.index, target) in fired:
            return False
        state = self.draft.node(target)
        if state.status is NodeStatus.FAILED and not state.reopened:
            self._jump(target)
            return False
        if not state.considered:
            return True
        if decision.repeat and state.status is not NodeStatus.SKIPPED:
            return True
        reads = decision.condition or node.flow
        assert reads is not None
        return self.draft.changed_since(reads.names, reads.node_names, state.considered)

    # The end

    def _finish(self, status: RunStatus | None, reason: str | None, ended: bool = False) -> None:
        """Rule 7: what the run came to, from how its nodes last settled."""
        self.over = True
        states = [self.draft.node(node.index) for node in self.plan.nodes]
        limit = self.transition.limit or self.draft.run.limit
        failed = [node for node in self.plan.nodes if states[node.index].status is NodeStatus.FAILED]
        succeeded = any(node.is_end and states[node.index].status is NodeStatus.SUCCEEDED for node in self.plan.nodes)
        self.transition.held = () if ended else self._held()
        error = reason
        if status is None:
            status = RunStatus.COMPLETE
            if limit is not None:
                status, error = RunStatus.FAILED, limit
            elif failed and not succeeded:
                first = states[failed[0].index].failure
                status, error = RunStatus.FAILED, f"node {failed[0].name!r} failed: {first.summary if first else ''}"
            elif failed or self._items_failed():
                status = RunStatus.PARTIAL
            elif not succeeded and not ended:
                error = stall_reason(self.plan, self.draft.node, self.transition.held)
                status = RunStatus.FAILED if error else RunStatus.COMPLETE
        self.transition.status = status
        self.transition.error = error
        self.transition.finished = self.draft.now
        self.draft.emit(events.RunFinished, status=status.value, error=error or "")

    def _items_failed(self) -> bool:
        for index, state in self.draft.run.maps.items():
            change = self.transition.maps.get(index)
            reset = change is not None and change.opened is not None
            if (change is not None and change.failed) or (state.failed and not reset):
                return True
        return False

    def _held(self) -> tuple[str, ...]:
        """The supervisors' decisions that are true now: nothing fired, so each of them is held."""
        found: list[str] = []
        for index in self.plan.supervisors:
            node = self.plan.nodes[index]
            try:
                decisions = self.draft.true_decisions(node.flow)  # type: ignore[arg-type]
            except EvaluationError:
                continue
            for decision in decisions:
                found.extend(f"{node.name} -> {self.plan.nodes[target].name}: {decision.label}" for target in decision.targets)
        return tuple(found)


def backoff_seconds(attempts: int, draw: float) -> float:
    """Full jitter over an exponential back-off after `attempts` failures."""
    ceiling = min(BACKOFF_MAX_SECONDS, BACKOFF_BASE_SECONDS * BACKOFF_FACTOR ** (attempts - 1))
    return draw * ceiling


def _status_of(state: NodeState) -> NodeStatus:
    """The status of an active node: that of its busiest module."""
    present = {module.status for module in state.modules}
    return next(status for status in _ACTIVE if status in present)


def _failure_of(error: Exception) -> Failure:
    return Failure(type(error).__name__, str(error), retryable=False)
