"""What the source and the items of a map mean for its node, and for maps that follow it. Rule 10.

A list is one page, a generator or another map many; items come in batches. The map settles when its source has come to
its end and each item has a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from operator import itemgetter

from graphflow import events
from graphflow.ids import FIRST_MODULE, ItemNumber, NodeNumber, item_range
from graphflow.inputs import ItemOutcomes, ItemsStored
from graphflow.planning.plan import PlanNode, bits
from graphflow.rules.effects import forget, forgive, send, take_messages
from graphflow.rules.fold import Fold
from graphflow.rules.visits import fail_module, publish_result
from graphflow.run import Failure, MapState, NodeStatus, Place, Run, SourcePage
from graphflow.transition import MapChange


def taken(run: Run, index: NodeNumber, visit: int) -> int:
    """How many elements of the map's source are stored; -1 for all."""
    opened = run.opened_map(index, visit)
    if opened is None:
        return 0
    return opened.span if opened.has_more else -1


def take_source(fold: Fold, outcome: ItemsStored, draw: float) -> None:
    """All items of a map, or a page of them; the source fails and is read again like any module."""
    node = fold.plan.nodes[outcome.node]
    opened = fold.draft.run.opened_map(node.index, outcome.visit)
    if outcome.failure is not None:
        module = fold.draft.edit(node.index).modules[0]
        # The first failure after the map was opened ends the attempt that has opened it.
        if module.failure is not None or opened is None:
            module.attempts += 1
        module.attempts = max(1, module.attempts)
        fail_module(fold, node, FIRST_MODULE, outcome.failure, draw)
        if not fold.draft.is_active(node.index):
            fold.transition.stopped |= node.bit
    elif opened is not None:
        _add_page(fold, node, opened, outcome)
    else:
        _open_map(fold, node, outcome)
    fold.go_on()


def _open_map(fold: Fold, node: PlanNode, outcome: ItemsStored) -> None:
    module = fold.draft.edit(node.index).modules[0]
    module.attempts += 1
    module.failure = None
    items = _results_so_far(fold, node) if outcome.follows else outcome.items
    change = fold.transition.maps[node.index] = MapChange(
        outcome.visit, opened=items, page=_page(outcome), borrowed=outcome.borrowed
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


def _page(outcome: ItemsStored) -> SourcePage | None:
    """By what these elements of a generator will be known again."""
    if not outcome.digest:
        return None
    kept = tuple(index for index, _ in outcome.items)
    is_whole = len(kept) == outcome.span - outcome.start
    return SourcePage(outcome.start, outcome.span, outcome.digest, None if is_whole else kept)


def _results_so_far(fold: Fold, node: PlanNode) -> list[tuple[ItemNumber, str]]:
    """The items of a pipelined map as it begins: their texts are in the store."""
    assert node.map is not None
    assert node.map.source_node is not None
    recorded = fold.draft.run.maps[node.map.source_node].recorded
    return [(index, "") for index in compress(item_range(len(recorded)), recorded)]


def _feed_followers(fold: Fold, node: PlanNode, done: list[tuple[ItemNumber, str]]) -> None:
    """Hand the results on to the pipelined maps over them, and say so when these were the last."""
    source = fold.draft.run.maps[node.index]
    is_active = fold.draft.is_active(node.index)
    for index in bits(node.streams_to & fold.transition.active):
        opened = fold.draft.run.opened_map(index, fold.draft.node(index).visits)
        if opened is None or not opened.has_more:
            continue
        fold.transition.maps[index] = MapChange(
            opened.visit, added=done, span=source.span, has_more=is_active
        )
        if not is_active:
            total = opened.total + len(done)
            _end_map(fold, fold.plan.nodes[index], total, opened.done, opened.failed)
            if not fold.draft.is_active(index):
                _feed_followers(fold, fold.plan.nodes[index], [])


def _add_page(fold: Fold, node: PlanNode, opened: MapState, outcome: ItemsStored) -> None:
    fold.transition.maps[node.index] = MapChange(
        outcome.visit,
        added=outcome.items,
        span=outcome.span,
        has_more=outcome.has_more,
        page=_page(outcome),
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


def take_items(fold: Fold, outcome: ItemOutcomes) -> None:
    node, state = fold.plan.nodes[outcome.node], fold.draft.run.maps[outcome.node]
    assert node.map is not None
    fold.draft.write(outcome.writes, outcome.ttls)
    fold.transition.maps[node.index] = MapChange(
        outcome.visit,
        done=outcome.done,
        failed=outcome.failed,
        retried=outcome.retried,
        results=outcome.results,
        pace=outcome.pace,
    )
    send(fold.draft, outcome.sent)
    take_messages(fold.draft, outcome.taken)
    for item, text in outcome.done if node.modules[0].module.output_mailbox is not None else ():
        publish_result(fold, Place(node.index, outcome.visit, FIRST_MODULE, item), text)
    if fold.draft.run.steps or fold.draft.run.waits:
        forget(fold.draft, node.index, {index for index, *_ in outcome.done})
        forget(fold.draft, node.index, {index for index, *_ in outcome.failed}, keep_steps=True)
        for index, failure, _ in outcome.failed:
            forgive(fold.draft, Place(node.index, outcome.visit, FIRST_MODULE, index), failure)
    _report_items(fold, outcome)
    done, failed = state.done + len(outcome.done), state.failed + len(outcome.failed)
    if outcome.failed and node.map.fail_fast:
        index, failure, _ = outcome.failed[0]
        fold.transition.stopped |= node.bit
        _fail_map(
            fold, node, replace(failure, message=f"item {index}: {failure.message}", retryable=True), index
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
    last_failed: Sequence[tuple[ItemNumber, Failure, int]] = (),
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
        there = f"{failed} of {total} items failed" if failed else f"there are {total} items in all"
        message = f"{there}, but min_success={node.map.min_success:g}{last}"
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


def _fail_map(fold: Fold, node: PlanNode, failure: Failure, item: ItemNumber | None = None) -> None:
    module = fold.draft.edit(node.index).modules[0]
    module.status = NodeStatus.FAILED
    module.failure = failure
    fold.fail(node.index, failure, item)


def apply_map(run: Run, node: PlanNode, change: MapChange) -> None:
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
