"""What happens next: the rules of docs/rules.md as one pure fold over a run.

`advance` looks at the plan, the run and one input, and returns everything that changes because of it; `apply` brings
the run up to date with that. No I/O, no clock, no randomness: `now` (ms since 1970) and `draw` (in [0, 1), for the
jitter of a back-off) are arguments, so that a run can be replayed from its recorded outcomes.

Here stands what each input means for the node that it is about. What follows for all others is in `fold.py`: when a
node may start in `readiness.py`, what supervisors decide in `supervise.py`, what the run came to in `ending.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from operator import itemgetter

from graphflow import events
from graphflow.engine.crashes import may_have_been_in_flight
from graphflow.engine.draft import Draft
from graphflow.engine.ending import Ending
from graphflow.engine.fold import Fold
from graphflow.engine.plan import Plan, PlanDecision, PlanNode, bits
from graphflow.engine.waiting import (
    apply_errands,
    await_signal,
    busiest,
    forget,
    send,
    send_early,
    take_signal,
)
from graphflow.graph.modules import END
from graphflow.graph.tasks import RunStatus
from graphflow.run import (
    Begin,
    Crashed,
    Failure,
    GraphChanged,
    Input,
    ItemOutcomes,
    ItemsStored,
    MapChange,
    MapState,
    Message,
    MessagesSent,
    NodeStatus,
    Outcome,
    Place,
    RetryDue,
    Run,
    SignalArrived,
    SignalAwaited,
    Started,
    StateSet,
    Stop,
    Transition,
    message_text,
)
from graphflow.settings import BACKOFF_BASE_SECONDS, BACKOFF_FACTOR, BACKOFF_MAX_SECONDS


def advance(plan: Plan, run: Run, outcome: Input, now: float, draw: float) -> Transition:
    """Everything that changes because of `outcome`; the run itself stays as it is.

    An input that comes too late (of an earlier visit, of a module that is not running, of a map that has settled, of a
    run that is over) changes nothing: the transition keeps the run's revision and is otherwise empty.
    """
    if is_late(run, outcome):
        return Transition(run.revision, run.active, run.fresh, run.iterations)
    fold = Fold(Draft(plan, run, run.revision + _weight(outcome), now))
    match outcome:
        case Outcome():
            _take_outcome(fold, outcome, draw)
        case ItemOutcomes():
            _take_items(fold, outcome)
        case Started():
            _admit(fold, outcome)
        case RetryDue():
            _retry(fold, outcome)
        case ItemsStored():
            _take_source(fold, outcome, draw)
        case StateSet():
            fold.draft.write(outcome.writes)
        case MessagesSent():
            send_early(fold.draft, outcome.messages)
        case SignalAwaited():
            await_signal(fold.draft, outcome)
            fold.go_on()
        case SignalArrived():
            take_signal(fold.draft, outcome)
        case Begin():
            _begin(fold)
        case Crashed():
            _count_crash(fold)
        case GraphChanged():
            _look_again(fold, outcome)
        case Stop():
            _stop(fold, outcome)
    return fold.transition


def is_late(run: Run, outcome: Input) -> bool:
    """Whether the input is about something that is over."""
    if run.status.is_final:
        return True
    match outcome:
        case StateSet() | MessagesSent() | SignalArrived() | Crashed() | Stop():
            return False
        case SignalAwaited(place=place):
            return _is_late_wait(run, place)
        case Begin():
            return run.status is not RunStatus.WAITING
        case GraphChanged():
            return run.status is RunStatus.WAITING
    if not run.active >> outcome.node & 1:
        return True
    state = run.nodes[outcome.node]
    match outcome:
        case Started(module=module):
            return state.modules[module].status is not NodeStatus.READY
        case RetryDue(module=module):
            return state.modules[module].status is not NodeStatus.WAITING
        case Outcome(module=module, visit=visit):
            return visit != state.visits or state.modules[module].status is not NodeStatus.RUNNING
        case ItemsStored(visit=visit, start=start):
            late = visit != state.visits or state.modules[0].status is not NodeStatus.RUNNING
            return late or start != _taken(run, outcome.node, visit)
        case ItemOutcomes(visit=visit):
            return visit != state.visits or not _is_open(run, outcome.node, visit)


def _is_late_wait(run: Run, place: Place) -> bool:
    state = run.nodes[place.node]
    if not run.active >> place.node & 1 or place.visit != state.visits:
        return True
    if place.item is not None:
        return not _is_open(run, place.node, place.visit) or place.item not in run.maps[place.node].unfinished
    return state.modules[place.module].status is not NodeStatus.RUNNING


def _is_open(run: Run, index: int, visit: int) -> bool:
    return index in run.maps and run.maps[index].visit == visit


def _taken(run: Run, index: int, visit: int) -> int:
    """How many elements of the map's source are stored; -1 for all."""
    if not _is_open(run, index, visit):
        return 0
    return run.maps[index].span if run.maps[index].has_more else -1


def _weight(outcome: Input) -> int:
    """By how much the revision grows: it counts outcomes, each item of a batch by itself."""
    match outcome:
        case Started() | RetryDue():
            return 0
        case ItemOutcomes(done=done, failed=failed):
            return max(1, len(done) + len(failed))
        case _:
            return 1


# The run


def _begin(fold: Fold) -> None:
    fold.transition.status = RunStatus.EXECUTING
    fold.transition.started = fold.draft.now
    fold.draft.emit(events.RunStarted)
    _start_roots(fold)


def _look_again(fold: Fold, changed: GraphChanged) -> None:
    """Nodes that are new, or depend on others than before, may be able to run by what has settled long ago."""
    fold.draft.emit(events.GraphChanged, changes="; ".join(changed.changes))
    _start_roots(fold)


def _start_roots(fold: Fold) -> None:
    for node in fold.plan.nodes:
        if node.starts and not fold.draft.node(node.index).considered:
            fold.start(node.index)
    fold.look_everywhere()
    fold.go_on()


def _stop(fold: Fold, stop: Stop) -> None:
    fold.stop_active(stop.reason)
    if stop.status is RunStatus.FAILED:
        fold.limit(stop.reason)
        fold.go_on()
    else:
        fold.finish(Ending(stop.status, stop.reason))


def _count_crash(fold: Fold) -> None:
    """One more death for all that was in flight; what has had its last one alone fails (rule 8)."""
    found = may_have_been_in_flight(fold.plan, fold.draft.run)
    fold.transition.deaths_counted = fold.draft.run.deaths
    fold.draft.emit(events.ProcessDied, in_flight=found.described(fold.plan))
    for index in found.nodes:
        state = fold.draft.edit(index)
        state.crashes += 1
        if len(found) == 1 and state.crashes >= fold.plan.nodes[index].config.max_crashes:
            failure = _death(state.crashes)
            for module in state.modules:
                if module.status.is_active:
                    module.status, module.failure = NodeStatus.FAILED, failure
            fold.fail(index, failure)
    for index, items in found.items.items():
        opened = fold.draft.run.maps[index]
        crashes = opened.crashes | {item: opened.crashes.get(item, 0) + 1 for item in items}
        if len(found) == 1 and crashes[items[0]] >= fold.plan.nodes[index].config.max_crashes:
            failed = (items[0], _death(crashes[items[0]]), crashes[items[0]])
            _take_items(fold, ItemOutcomes(index, opened.visit, failed=[failed]))
        else:
            fold.transition.maps[index] = MapChange(opened.visit)
        fold.transition.maps[index].crashes = crashes
    fold.go_on()


def _death(crashes: int) -> Failure:
    message = f"the process died {crashes} times while this ran, the last time with nothing else in flight"
    return Failure("ProcessDied", message, retryable=False)


# Modules


def _admit(fold: Fold, started: Started) -> None:
    state = fold.draft.edit(started.node)
    state.modules[started.module].status = NodeStatus.RUNNING
    state.status = NodeStatus.RUNNING
    if not state.started:
        state.started = fold.draft.now
        fold.draft.emit_node(events.NodeStarted, started.node)


def _retry(fold: Fold, due: RetryDue) -> None:
    state = fold.draft.edit(due.node)
    module = state.modules[due.module]
    module.status = NodeStatus.READY
    module.retry_at = 0
    state.status = busiest(state)
    fold.transition.ready.append((due.node, due.module))


def _take_outcome(fold: Fold, outcome: Outcome, draw: float) -> None:
    node, state = fold.plan.nodes[outcome.node], fold.draft.edit(outcome.node)
    module = state.modules[outcome.module]
    module.attempts += 1
    if outcome.failure is not None:
        _fail_module(fold, node, outcome.module, outcome.failure, draw)
    else:
        fold.draft.write(outcome.writes)
        send(fold.draft, outcome.sent)
        fold.transition.taken += outcome.taken
        if node.modules[outcome.module].module.output_mailbox is not None:
            _publish_result(fold, Place(outcome.node, outcome.visit, outcome.module), outcome.result)
        module.status = NodeStatus.SUCCEEDED
        module.result = outcome.result
        module.failure = None
        if node.modules[outcome.module].module.config.stop_on_success:
            for later in state.modules[outcome.module + 1 :]:
                if later.status is NodeStatus.PENDING:
                    later.status = NodeStatus.SKIPPED
        _next_module(fold, node, outcome.decision)
    fold.go_on()


def _publish_result(fold: Fold, place: Place, text: str | None) -> None:
    node = fold.plan.nodes[place.node]
    mailbox = node.modules[place.module].module.output_mailbox
    assert mailbox is not None
    message = message_text(f"{place.text(node.name)}:result", node.name, text or "null")
    send(fold.draft, [Message(mailbox, message)])


def _fail_module(fold: Fold, node: PlanNode, place: int, failure: Failure, draw: float) -> None:
    """One attempt failed: wait for the next one, or give up (rule 8)."""
    state = fold.draft.edit(node.index)
    module = state.modules[place]
    module.failure = failure
    if not failure.retryable or module.attempts >= node.config.attempts:
        module.status = NodeStatus.FAILED
        _next_module(fold, node)
        return
    delay = backoff_seconds(module.attempts, draw)
    module.status = NodeStatus.WAITING
    module.retry_at = fold.draft.now + delay * 1000
    state.status = busiest(state)
    fold.transition.delayed.append((node.index, place, module.retry_at))
    fold.draft.emit_node(
        events.RetryScheduled,
        node.index,
        module=node.modules[place].name,
        attempt=module.attempts + 1,
        error=failure.summary,
        delay=round(delay, 3),
    )


def _next_module(fold: Fold, node: PlanNode, decision: tuple[str, ...] | None = None) -> None:
    """After one module of the node came to an end: the next one, or the end of the visit (rule 4)."""
    state = fold.draft.edit(node.index)
    if any(module.status.is_active for module in state.modules):
        state.status = busiest(state)
        return
    for module in state.modules:
        if module.status is NodeStatus.FAILED:
            assert module.failure is not None
            fold.fail(node.index, module.failure)
            return
    for place, module in enumerate(state.modules):
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
        fold.decide(node, _returned(fold.plan, decision))
    else:
        fold.settle(node.index, NodeStatus.SUCCEEDED)


def _returned(plan: Plan, decision: tuple[str, ...] | None) -> list[PlanDecision]:
    if decision is None:
        return []
    targets = tuple(plan.by_name[name] for name in decision if name != END)
    return [PlanDecision(targets, END in decision, None, (), False, "returned")]


# Maps (rule 10)


def _take_source(fold: Fold, outcome: ItemsStored, draw: float) -> None:
    """All items of a map, or a page of them; the source fails and is read again like any module."""
    node = fold.plan.nodes[outcome.node]
    if outcome.failure is not None:
        module = fold.draft.edit(node.index).modules[0]
        # The first failure after the map was opened ends the attempt that has opened it.
        if module.failure is not None or not _is_open(fold.draft.run, node.index, outcome.visit):
            module.attempts += 1
        module.attempts = max(1, module.attempts)
        _fail_module(fold, node, 0, outcome.failure, draw)
        if not fold.draft.is_active(node.index):
            fold.transition.stopped |= node.bit
    elif _is_open(fold.draft.run, node.index, outcome.visit):
        _add_page(fold, node, outcome)
    else:
        _open_map(fold, node, outcome)
    fold.go_on()


def _open_map(fold: Fold, node: PlanNode, outcome: ItemsStored) -> None:
    module = fold.draft.edit(node.index).modules[0]
    module.attempts += 1
    module.failure = None
    items = _results_so_far(fold, node) if outcome.follows else outcome.items
    change = fold.transition.maps[node.index] = MapChange(
        outcome.visit, opened=items, borrowed=outcome.borrowed
    )
    fold.open_stream(node)
    if outcome.has_more:
        change.span, change.has_more = outcome.span, True
        fold.draft.emit_node(events.MapOpened, node.index, total=-1)
        return
    change.span = outcome.span
    fold.draft.emit_node(events.MapOpened, node.index, total=len(outcome.items))
    if not outcome.items:
        if fold.plan.maps_in_expressions & node.bit:
            change.results = "[]"
        _end_map(fold, node, 0, 0, 0, "null" if node.is_reduced else None)


def _results_so_far(fold: Fold, node: PlanNode) -> list[tuple[int, str]]:
    """The items of a pipelined map as it begins: their texts are in the store."""
    assert node.map is not None
    assert node.map.source_node is not None
    recorded = fold.draft.run.maps[node.map.source_node].recorded
    return [(index, "") for index in compress(range(len(recorded)), recorded)]


def _feed_followers(fold: Fold, node: PlanNode, done: list[tuple[int, str]]) -> None:
    """Hand the results on to the pipelined maps over them, and say so when these were the last."""
    source = fold.draft.run.maps[node.index]
    is_active = fold.draft.is_active(node.index)
    for index in bits(node.streams_to & fold.transition.active):
        opened = fold.draft.run.maps.get(index)
        if opened is None or opened.visit != fold.draft.node(index).visits or not opened.has_more:
            continue
        fold.transition.maps[index] = MapChange(
            opened.visit, added=done, span=source.span, has_more=is_active
        )
        if not is_active:
            total = opened.total + len(done)
            _end_map(fold, fold.plan.nodes[index], total, opened.done, opened.failed)
            if not fold.draft.is_active(index):
                _feed_followers(fold, fold.plan.nodes[index], [])


def _add_page(fold: Fold, node: PlanNode, outcome: ItemsStored) -> None:
    opened = fold.draft.run.maps[node.index]
    fold.transition.maps[node.index] = MapChange(
        outcome.visit,
        added=outcome.items,
        span=outcome.span,
        has_more=outcome.has_more,
        results=outcome.results,
    )
    if outcome.reduce_failure is not None:
        fold.transition.stopped |= node.bit
        _fail_map(fold, node, outcome.reduce_failure)
    if outcome.has_more or outcome.reduce_failure is not None:
        return
    total = opened.total + len(outcome.items)
    fold.draft.emit_node(events.SourceExhausted, node.index, total=total)
    _end_map(fold, node, total, opened.done, opened.failed, outcome.results)
    _feed_followers(fold, node, [])


def _take_items(fold: Fold, outcome: ItemOutcomes) -> None:
    node, state = fold.plan.nodes[outcome.node], fold.draft.run.maps[outcome.node]
    assert node.map is not None
    fold.draft.write(outcome.writes)
    fold.transition.maps[node.index] = MapChange(
        outcome.visit,
        done=outcome.done,
        failed=outcome.failed,
        retried=outcome.retried,
        results=outcome.results,
        pace=outcome.pace,
    )
    send(fold.draft, outcome.sent)
    fold.transition.taken += outcome.taken
    for item, text in outcome.done if node.modules[0].module.output_mailbox is not None else ():
        _publish_result(fold, Place(node.index, outcome.visit, 0, item), text)
    forget(fold.draft, node.index, {index for index, *_ in outcome.done})
    forget(fold.draft, node.index, {index for index, *_ in outcome.failed}, keep_steps=True)
    _report_items(fold, outcome)
    done, failed = state.done + len(outcome.done), state.failed + len(outcome.failed)
    if outcome.failed and node.map.fail_fast:
        index, failure, _ = outcome.failed[0]
        fold.transition.stopped |= node.bit
        _fail_map(
            fold, node, Failure(failure.type, f"item {index}: {failure.message}", failure.traceback), index
        )
    elif outcome.reduce_failure is not None:
        fold.transition.stopped |= node.bit
        _fail_map(fold, node, outcome.reduce_failure)
    elif not state.has_more:
        _end_map(fold, node, state.total, done, failed, outcome.results, outcome.failed)
    _feed_followers(fold, node, outcome.done)
    fold.go_on()


def _end_map(
    fold: Fold,
    node: PlanNode,
    total: int,
    done: int,
    failed: int,
    results: str | None = None,
    last_failed: Sequence[tuple[int, Failure, int]] = (),
) -> None:
    """Settle the map if every item has its record, or so many have failed that too few can succeed."""
    assert node.map is not None
    if failed <= total - node.map.needed(total):
        if done + failed == total:
            _finish_map(fold, node, results)
        return
    last = f"; the last one, item {last_failed[-1][0]}: {last_failed[-1][1].summary}" if last_failed else ""
    if done + failed < total:
        fold.transition.stopped |= node.bit
    if node.map.min_success is None:
        _fail_map(fold, node, Failure("AllItemsFailed", f"all {failed} items failed{last}"))
    else:
        message = f"{failed} of {total} items failed, but min_success={node.map.min_success:g}{last}"
        _fail_map(fold, node, Failure("TooFewSucceeded", message))


def _report_items(fold: Fold, outcome: ItemOutcomes) -> None:
    if outcome.done:
        indexes = events.index_ranges([index for index, _ in outcome.done])
        fold.draft.emit_node(events.ItemsFinished, outcome.node, count=len(outcome.done), indexes=indexes)
    for index, failure, attempts in outcome.failed:
        fold.draft.emit_node(
            events.ItemFailed, outcome.node, index=index, error=failure.summary, attempts=attempts
        )
        fold.publish_failure(outcome.node, failure, index, attempts)


def _finish_map(fold: Fold, node: PlanNode, results: str | None) -> None:
    state = fold.draft.edit(node.index)
    state.modules[0].status = NodeStatus.SUCCEEDED
    state.modules[0].failure = None
    state.changed = fold.revision
    if node.is_reduced:
        # One value, as any node has: its result, and the state key of its name.
        state.modules[0].result = results
        fold.draft.write({node.name: results})
        fold.draft.show(node.index, NodeStatus.SUCCEEDED, results)
    fold.settle(node.index, NodeStatus.SUCCEEDED)


def _fail_map(fold: Fold, node: PlanNode, failure: Failure, item: int | None = None) -> None:
    module = fold.draft.edit(node.index).modules[0]
    module.status = NodeStatus.FAILED
    module.failure = failure
    fold.fail(node.index, failure, item)


def backoff_seconds(attempts: int, draw: float) -> float:
    """Full jitter over an exponential back-off after `attempts` failures."""
    ceiling = min(BACKOFF_MAX_SECONDS, BACKOFF_BASE_SECONDS * BACKOFF_FACTOR ** min(attempts - 1, 60))
    return draw * ceiling


# The mirror


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
        _apply_map(run, plan.nodes[index], change)
    apply_errands(run, transition)
    run.revision = transition.revision
    run.active = transition.active
    run.fresh = transition.fresh
    run.iterations = transition.iterations
    run.deaths_counted = transition.deaths_counted or run.deaths_counted
    run.limit = transition.limit or run.limit
    run.error = transition.error or run.error
    run.held = transition.held or run.held
    run.started = transition.started or run.started
    run.finished = transition.finished or run.finished
    run.status = transition.status or run.status


def _apply_map(run: Run, node: PlanNode, change: MapChange) -> None:
    index = node.index
    if change.opened is not None:
        run.maps[index] = MapState(change.visit, 0, borrowed=change.borrowed)
        run.map_results.pop(index, None)
    state = run.maps[index]
    added = change.added if change.opened is None else change.opened
    state.total += len(added)
    state.unfinished.update(map(itemgetter(0), added))
    state.span = change.taken or state.span
    state.has_more = state.has_more if change.has_more is None else change.has_more
    state.done += len(change.done)
    state.failed += len(change.failed)
    state.retried += change.retried
    state.unfinished.difference_update(map(itemgetter(0), change.done))
    state.unfinished.difference_update(map(itemgetter(0), change.failed))
    if node.streams_to:
        state.recorded.extend(bytes(state.span - len(state.recorded)))
        for item, _ in change.done:
            state.recorded[item] = 1
    if change.crashes is not None:
        state.crashes = change.crashes
    if change.results is not None and node.lists_results:
        run.map_results[index] = change.results
