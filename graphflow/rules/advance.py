"""What happens next: the rules of docs/rules.md as one pure fold over a run.

`advance` looks at the plan, the run and one input, and returns everything that changes because of it; `apply` brings
the run up to date with that. No I/O, no clock, no randomness: `now` (ms since 1970) and `draw` (in [0, 1), for the
jitter of a back-off) are arguments, so that a run can be replayed from its recorded outcomes.

Here stands what concerns the whole run. What an input means for the node that it is about is in `visits.py`, for maps in
`maps.py`. What follows for all others is in `fold.py`: when a node may start in `readiness.py`, what supervisors decide
in `supervise.py`, what the run came to in `ending.py`.
"""

from __future__ import annotations

from graphflow import events
from graphflow.graph.tasks import RunStatus
from graphflow.inputs import (
    Begin,
    Crashed,
    Entered,
    GraphChanged,
    GraphStopped,
    Input,
    ItemOutcomes,
    ItemsStored,
    KeyDue,
    MessagesSent,
    Outcome,
    RetryDue,
    SignalArrived,
    SignalAwaited,
    SignalOverdue,
    Started,
    StateSet,
    Stop,
)
from graphflow.planning.plan import Plan
from graphflow.rules.crashes import may_have_been_in_flight
from graphflow.rules.draft import Draft
from graphflow.rules.effects import (
    apply_effects,
    await_signal,
    give_up,
    send_early,
    take_signal,
)
from graphflow.rules.ending import Ending
from graphflow.rules.fold import Fold
from graphflow.rules.maps import apply_map, take_items, take_source, taken
from graphflow.rules.subgraphs import enter, is_late_stop, stop_graph
from graphflow.rules.visits import admit, admit_ready, retry, take_outcome
from graphflow.run import Failure, NodeStatus, Place, Run
from graphflow.transition import MapChange, Transition


def advance(plan: Plan, run: Run, outcome: Input, now: float, draw: float, *, room: int = 0) -> Transition:
    """Everything that changes because of `outcome`; the run itself stays as it is.

    Of the attempts that become ready, so many as there is `room` start with it: the same as if `Started` came for each.
    An input that comes too late (of an earlier visit, of a module that is not running, of a map that has settled, of a
    run that is over) changes nothing: the transition keeps the run's revision and is otherwise empty.
    """
    if is_late(run, outcome):
        return Transition(run.revision, run.active, run.fresh, run.iterations)
    fold = Fold(Draft(plan, run, run.revision + _weight(outcome), now), draw)
    match outcome:
        case Outcome():
            take_outcome(fold, outcome, draw)
        case ItemOutcomes():
            take_items(fold, outcome)
        case Started():
            admit(fold, outcome)
        case RetryDue():
            retry(fold, outcome)
        case Entered():
            enter(fold, outcome)
        case GraphStopped():
            stop_graph(fold, outcome)
        case ItemsStored():
            take_source(fold, outcome, draw)
        case StateSet():
            fold.draft.write(outcome.writes, outcome.ttls)
        case KeyDue(key=key):
            fold.draft.write({key: None})
            fold.draft.emit(events.KeyExpired, key=key)
        case MessagesSent():
            send_early(fold.draft, outcome.messages)
        case SignalAwaited():
            await_signal(fold.draft, outcome)
            fold.go_on()
        case SignalArrived():
            take_signal(fold.draft, outcome)
        case SignalOverdue():
            give_up(fold.draft, outcome)
        case Begin():
            _begin(fold)
        case Crashed():
            _count_crash(fold)
        case GraphChanged():
            _look_again(fold, outcome)
        case Stop():
            _stop(fold, outcome)
    if room:
        admit_ready(fold, room)
    return fold.transition


def is_late(run: Run, outcome: Input) -> bool:
    """Whether the input is about something that is over."""
    if run.status.is_final:
        return True
    match outcome:
        case StateSet() | MessagesSent() | SignalArrived() | Crashed() | Stop():
            return False
        case KeyDue(key=key, end=end):
            return run.expiring.get(key) != end
        case SignalAwaited(place=place):
            return _is_late_wait(run, place)
        case SignalOverdue(place=place, field=field):
            return place not in run.waits or run.waits[place].field != field
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
        case Entered():
            return state.modules[0].status is not NodeStatus.READY
        case GraphStopped():
            return is_late_stop(state, outcome)
        case Outcome(module=module, visit=visit):
            return visit != state.visits or state.modules[module].status is not NodeStatus.RUNNING
        case ItemsStored(visit=visit, start=start):
            late = visit != state.visits or state.modules[0].status is not NodeStatus.RUNNING
            return late or start != taken(run, outcome.node, visit)
        case ItemOutcomes(visit=visit):
            return visit != state.visits or run.opened_map(outcome.node, visit) is None


def _is_late_wait(run: Run, place: Place) -> bool:
    state = run.nodes[place.node]
    if not run.active >> place.node & 1 or place.visit != state.visits:
        return True
    if place.item is not None:
        opened = run.opened_map(place.node, place.visit)
        return opened is None or place.item not in opened.unfinished
    return state.modules[place.module].status is not NodeStatus.RUNNING


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
    scope = fold.plan.scopes[0]
    fold.stop_active(stop.reason, scope.within)
    if stop.status is RunStatus.FAILED:
        fold.draft.reach_limit(stop.reason, scope)
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
            take_items(fold, ItemOutcomes(index, opened.visit, failed=[failed]))
        else:
            fold.transition.maps[index] = MapChange(opened.visit)
        fold.transition.maps[index].crashes = crashes
    fold.go_on()


def _death(crashes: int) -> Failure:
    message = f"the process died {crashes} times while this ran, the last time with nothing else in flight"
    return Failure("ProcessDied", message, retryable=False)


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
    for key, end in transition.expiring.items():
        if end is None:
            run.expiring.pop(key, None)
        else:
            run.expiring[key] = end
    for index, change in transition.maps.items():
        apply_map(run, plan.nodes[index], change)
    apply_effects(run, transition)
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
