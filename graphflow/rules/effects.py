"""What a module run leaves behind besides state, folded: signals that it waits for, messages, what is remembered of it.

A signal is answered to whoever has waited longest for its name; one that nobody waits for yet is kept. What is
remembered of a module run lasts as long as the visit of its node, of a map's item until the item has its record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from graphflow import events
from graphflow.errors import NoSignal
from graphflow.graph.tasks import RunStatus
from graphflow.ids import ItemNumber, NodeNumber, enumerate_modules
from graphflow.inputs import SignalArrived, SignalAwaited, SignalOverdue
from graphflow.planning.plan import bits
from graphflow.rules.draft import Draft
from graphflow.run import (
    Failure,
    Message,
    NodeStatus,
    Place,
    Run,
    Wait,
    answer_field,
    beginning_field,
    is_from_outside,
    is_overdue_field,
    overdue_field,
    own_signal_text,
    told_apart,
)
from graphflow.transition import Transition

#: What is remembered of a message that left before the commit, and of a wait whose patience has ended.
_TRUE = "true"


# Signals


def await_signal(draft: Draft, awaited: SignalAwaited) -> None:
    """The module run has ended; it is ready again at once if the signal came before it was waited for."""
    place, name = awaited.place, awaited.signal
    wait = _wait(draft, awaited)
    told = {"signal": name, "item": _item_text(place)}
    if awaited.refused is not None:
        _remember(draft, place, {wait.field: None})
        draft.emit_node(events.SignalRefused, place.node, reason=wait.refused, **told)
    draft.emit_node(events.SignalAwaited, place.node, **told)
    kept = _kept(draft, name)
    if kept:
        draft.transition.signals[name] = kept[1:]
        _answer(draft, place, wait, *told_apart(kept[0]))
        return
    draft.transition.waits[place] = wait
    if place.item is None:
        _set_status(draft, place, NodeStatus.WAITING)


def _wait(draft: Draft, awaited: SignalAwaited) -> Wait:
    """Of an answer that was refused, the wait goes on as if it had never come."""
    patience = None if awaited.timeout is None else draft.now + awaited.timeout * 1000
    wait = Wait(
        awaited.signal,
        awaited.field,
        draft.revision,
        awaited.question,
        awaited.schema,
        patience or 0,
        "" if awaited.refused is None else awaited.refused or "for no given reason",
    )
    beginning = draft.run.steps.get(awaited.place, {}).get(beginning_field(awaited.field))
    return wait if beginning is None else wait.going_on_from(beginning)


def take_signal(draft: Draft, arrived: SignalArrived) -> None:
    """The one who has waited longest goes on with it."""
    draft.emit(events.SignalArrived, signal=arrived.signal)
    waiting = [
        (wait.since, place) for place, wait in draft.run.waits.items() if wait.signal == arrived.signal
    ]
    if waiting:
        _, place = min(waiting)
        draft.transition.waits[place] = None
        _answer(draft, place, draft.run.waits[place], arrived.text, arrived.is_own)
    else:
        text = own_signal_text(arrived.text) if arrived.is_own else arrived.text
        draft.transition.signals[arrived.signal] = (*_kept(draft, arrived.signal), text)


def give_up(draft: Draft, overdue: SignalOverdue) -> None:
    """Nobody has answered in time: that is what the module run finds when it starts again."""
    place, wait = overdue.place, draft.run.waits[overdue.place]
    draft.transition.waits[place] = None
    item = _item_text(place)
    draft.emit_node(events.SignalOverdue, place.node, signal=wait.signal, item=item)
    _go_on(draft, place, {overdue_field(wait.field): _TRUE})


def forgive(draft: Draft, place: Place, failure: Failure) -> None:
    """A module run, or an item, has failed for good: if it was because nobody has answered in time, who tries it again, in
    a fork of the run, asks again."""
    # Of the chain, what was merely being handled does not count.
    types = [failure.type, *(cause.type for cause in failure.causes if cause.relation != "context")]
    if NoSignal.__name__ not in types:
        return
    remembered = draft.run.steps.get(place, {})
    for name in [name for name in remembered if is_overdue_field(name)]:
        _remember(draft, place, {name: None, beginning_field(answer_field(name)): None})


def _kept(draft: Draft, signal: str) -> tuple[str, ...]:
    return draft.run.signals.get(signal, ())


def _answer(draft: Draft, place: Place, wait: Wait, text: str, is_own: bool) -> None:
    if not is_own:
        count_anew(draft, wait.signal)
    _go_on(draft, place, {wait.field: text, beginning_field(wait.field): wait.beginning})


def _go_on(draft: Draft, place: Place, remembered: Mapping[str, str]) -> None:
    """The module run that waited starts again, with this remembered of it."""
    _remember(draft, place, remembered)
    if draft.run.status is RunStatus.SUSPENDED:
        draft.transition.status = RunStatus.EXECUTING
    if place.item is not None:
        draft.transition.items_ready.append(place)
        return
    _set_status(draft, place, NodeStatus.READY)
    draft.transition.ready.append((place.node, place.module))


def _remember(draft: Draft, place: Place, fields: Mapping[str, str | None]) -> None:
    known = draft.transition.steps.get(place)
    draft.transition.steps[place] = {**(known or {}), **fields}


def _item_text(place: Place) -> str:
    return "" if place.item is None else str(place.item)


def count_anew(draft: Draft, name: str) -> None:
    """Something was taken from outside under this name: node runs are counted from here on (rule 9), in the run and in
    the sub-graphs inside of which it was taken."""
    draft.transition.iterations = 0
    for scope in draft.plan.scopes[1:]:
        if scope.node is None or not name.startswith(scope.prefix):
            continue
        graph = draft.node(scope.node).graph
        if graph is not None and graph.iterations:
            draft.edit(scope.node).graph = replace(graph, iterations=0)


def _set_status(draft: Draft, place: Place, status: NodeStatus) -> None:
    state = draft.edit(place.node)
    state.modules[place.module].status = status
    state.status = state.busiest


def suspend_if_only_waiting(draft: Draft) -> None:
    """A run of which everything that is active waits for a signal needs nobody to drive it."""
    run, transition = draft.run, draft.transition
    if not run.waits and not transition.waits:
        return
    waits = _waits(draft)
    counts = Counter(place.node for place in waits)
    # What a sub-graph waits for is what the nodes inside wait for.
    entered = sum(1 << index for index in bits(draft.plan.subgraphs) if draft.node(index).has_entered)
    only_waits = all(
        _only_waits(draft, index, waits, counts[index]) for index in bits(transition.active & ~entered)
    )
    if only_waits and run.status is not RunStatus.SUSPENDED:
        transition.status = RunStatus.SUSPENDED
        draft.emit(events.RunSuspended, signals=" ".join(sorted({wait.signal for wait in waits.values()})))
    elif not only_waits and run.status is RunStatus.SUSPENDED:
        transition.status = RunStatus.EXECUTING


def _waits(draft: Draft) -> dict[Place, Wait]:
    merged = {**draft.run.waits, **draft.transition.waits}
    return {place: wait for place, wait in merged.items() if wait is not None}


def _only_waits(draft: Draft, index: NodeNumber, waits: Collection[Place], count: int) -> bool:
    state, opened = draft.node(index), draft.run.maps.get(index)
    change = draft.transition.maps.get(index)
    if change is not None and change.opened is not None:
        return False
    source = draft.plan.nodes[index].map
    has_more = opened is not None and opened.has_more and (change is None or change.has_more is not False)
    # The end of a pipelined map's items is up to the node that they come from.
    if has_more and (source is None or not source.pipelined):
        return False
    if opened is not None and opened.visit == state.visits:
        recorded = 0 if change is None else len(change.done) + len(change.failed)
        return len(opened.unfinished) - recorded == count
    return all(
        Place(index, state.visits, number) in waits
        for number, module in enumerate_modules(state.modules)
        if module.status.is_active
    )


# Messages


def take_messages(draft: Draft, taken: Iterable[tuple[str, str]]) -> None:
    """Messages leave their mailboxes with the commit of who has taken them."""
    messages = [*taken]
    draft.transition.taken += messages
    for mailbox, text in messages:
        if is_from_outside(text):
            count_anew(draft, mailbox)


def send(draft: Draft, messages: Iterable[Message]) -> None:
    """Deliver the messages of a commit, but for those that have left before it."""
    draft.transition.sent += [message for message in messages if not _has_left(draft.run, message)]


def send_early(draft: Draft, messages: Sequence[Message]) -> None:
    """Deliver messages before the commit of who sends them, and remember that they have left."""
    for message in messages:
        if _has_left(draft.run, message) or (message.place is not None and _is_over(draft, message.place)):
            continue
        draft.transition.sent.append(message)
        if message.place is not None:
            remembered = draft.transition.steps.setdefault(message.place, {})
            assert remembered is not None
            remembered[message.field] = _TRUE


def _has_left(run: Run, message: Message) -> bool:
    return message.place is not None and message.field in run.steps.get(message.place, ())


def _is_over(draft: Draft, place: Place) -> bool:
    return not draft.is_active(place.node) or draft.node(place.node).visits != place.visit


# What is remembered


def forget(
    draft: Draft, index: NodeNumber, items: Collection[ItemNumber] | None = None, *, keep_steps: bool = False
) -> None:
    """Drop what is remembered of the node, or of these items of a map, and what they wait for.

    Of what failed or was cut off, `keep_steps`: who tries it again, in a fork of the run, is not to pay for it again.
    """
    run, transition = draft.run, draft.transition
    if not (run.steps or run.waits or transition.steps or transition.waits):
        return
    for place in () if keep_steps else {*run.steps, *transition.steps}:
        if place.node == index and (items is None or place.item in items):
            transition.steps[place] = None
    for place in {*run.waits, *transition.waits}:
        if place.node == index and (items is None or place.item in items):
            transition.waits[place] = None


def apply_effects(run: Run, transition: Transition) -> None:
    """Bring the mirror up to date, the part that this file decides."""
    for place, fields in transition.steps.items():
        if fields is None:
            run.steps.pop(place, None)
        else:
            known = run.steps.setdefault(place, {})
            for name, text in fields.items():
                if text is None:
                    known.pop(name, None)
                else:
                    known[name] = text
    for place, wait in transition.waits.items():
        if wait is None:
            run.waits.pop(place, None)
        else:
            run.waits[place] = wait
    for name, texts in transition.signals.items():
        if texts:
            run.signals[name] = texts
        else:
            run.signals.pop(name, None)
    for message in transition.sent:
        run.mailboxes.setdefault(message.mailbox, []).append(message.text)
    for mailbox, text in transition.taken:
        run.mailboxes[mailbox].remove(text)
