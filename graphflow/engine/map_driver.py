"""Drives the items of a run's maps: starts them in free slots, takes what they come to, has it folded by the batch.

An item that touches no state passes on a short path: one task, no arrival of its own, folded with its batch. One that
reads or writes state is validated and folded like any module run, in its place among the others.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from graphflow.engine.advance import backoff_seconds
from graphflow.engine.attempt import Attempt
from graphflow.engine.maps import MapItems, merged_results
from graphflow.failpoints import failpoint
from graphflow.run import Failure, Input, ItemOutcomes, NodeStatus, Outcome, Transition

if TYPE_CHECKING:
    from graphflow.engine.scheduler import Scheduler

#: Items started before the loop gets a turn.
BURST_ITEMS = 32


class MapDriver:
    """The maps of one run that are under way in this process."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._plan = scheduler.plan
        self._run = scheduler.run
        self._loop = asyncio.get_running_loop()
        self._random = random.Random()
        self._maps: dict[int, MapItems] = {}
        #: Maps that the commit under way opens: their items can be read when it is stored.
        self._unstored: set[int] = set()
        #: Results that the commit under way stores, of maps that an expression reads.
        self._unstored_results: dict[int, list[tuple[int, str]]] = {}
        self._loading: set[asyncio.Task[None]] = set()
        self._refill_due = False

    @property
    def is_idle(self) -> bool:
        """Nothing of it will come without a slot: no page is being read and no refill is due."""
        return not self._loading and not self._refill_due

    @property
    def has_finished(self) -> bool:
        """Items wait for their commit."""
        return any(items.has_finished for items in self._maps.values())

    # Maps come and go

    def enter(self, index: int) -> bool:
        """Go on with a map that was loaded; False if its source has not been read in this visit."""
        state = self._run.maps.get(index)
        if (
            state is None
            or state.visit != self._run.nodes[index].visits
            or self._plan.nodes[index].map is None
        ):
            return False
        self._open(index)
        return True

    def react(self, transition: Transition) -> None:
        for index, change in transition.maps.items():
            if self._plan.maps_in_expressions >> index & 1:
                self._unstored_results.setdefault(index, []).extend(change.done)
            if self._run.nodes[index].status is not NodeStatus.RUNNING:
                self.drop(index)
            elif change.opened is not None:
                failpoint("map.opened")
                self._unstored.add(index)
        for place in transition.items_ready:
            if (items := self._maps.get(place.node)) is not None and place.item is not None:
                items.wake(place.item)
                self.refill_soon()

    def stored(self) -> None:
        """What was folded is stored now."""
        for index in self._unstored:
            self._open(index)
        self._unstored.clear()
        self._unstored_results.clear()

    def drop(self, index: int) -> None:
        """The map's visit is over; items that have not started leave the line."""
        self._unstored.discard(index)
        items = self._maps.pop(index, None)
        if items is not None:
            for attempt in items.take_queue():
                self._scheduler.admission.leave(attempt)

    def close(self) -> None:
        self._maps.clear()
        for task in self._loading:
            task.cancel()

    def _open(self, index: int) -> None:
        failpoint("map.entered")
        waiting = {place.item for place in self._run.waits if place.node == index and place.item is not None}
        self._maps[index] = MapItems(self._plan.nodes[index], self._run.maps[index], waiting)
        self.refill_soon()

    # Items start

    def refill_soon(self) -> None:
        if self._maps and not self._refill_due:
            self._refill_due = True
            self._loop.call_soon(self.refill, context=self._scheduler.slots.context)

    def refill(self) -> None:
        """Start items in free slots, a burst at a time; the rest when the loop has had a turn."""
        self._refill_due = False
        if self._scheduler.is_held:
            return
        slots = self._scheduler.slots
        burst = 0
        for items in list(self._maps.values()):
            if items.needs_page:
                self._load_page(items)
            for _ in range(items.queued):
                if slots.free <= 0 or not items.may_start:
                    break
                if burst == BURST_ITEMS:
                    self.refill_soon()
                    return
                attempt = self._next(items)
                if attempt is None:
                    break
                if not self._scheduler.admission.may_start(attempt):
                    items.postpone(attempt)
                    continue
                burst += 1
                slots.free -= 1
                slots.launch(attempt)

    def _next(self, items: MapItems) -> Attempt | None:
        suspects = self._scheduler.admission.suspects
        if suspects is None:
            return items.take()
        return items.take_among(suspects.items.get(items.node.index, ()))

    def put_back(self, attempt: Attempt) -> None:
        """An item that runs again, before the others."""
        if (items := self._items_of(attempt)) is not None:
            items.put_back(attempt)
            self.refill_soon()

    def _load_page(self, items: MapItems) -> None:
        items.is_loading = True
        task = self._loop.create_task(self._read_page(items), context=self._scheduler.slots.context)
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def _read_page(self, items: MapItems) -> None:
        indexes = items.next_page()
        try:
            texts = await self._scheduler.store.items(self._run.id, items.node.name, indexes)
        except Exception as error:
            self._scheduler.break_off(error)
            return
        items.add_page(indexes, texts)
        items.is_loading = False
        self.refill_soon()

    def step_aside(self, attempt: Attempt) -> None:
        """An item waits for a message: others may run in its place."""
        if (items := self._items_of(attempt)) is not None and attempt.is_item:
            items.ended()
        self.refill_soon()

    def has_room(self, attempt: Attempt) -> bool:
        items = self._items_of(attempt) if attempt.is_item else None
        return items is None or items.has_room

    def come_back(self, attempt: Attempt) -> None:
        if (items := self._items_of(attempt)) is not None and attempt.is_item:
            items.came_back()

    # Items end

    def ended(self, attempt: Attempt, outcome: Input | None) -> bool:
        """An attempt's task is over. True if that is all: the item touched no state and is folded with its batch."""
        self.refill_soon()
        if not attempt.is_item:
            return False
        items = self._items_of(attempt)
        if items is not None and not attempt.is_aside:
            items.ended()
        assert attempt.transaction is not None
        if not isinstance(outcome, Outcome) or not attempt.transaction.is_empty:
            return False
        self._finish(attempt, items, outcome)
        return True

    async def take(self, attempt: Attempt, outcome: Input) -> bool:
        """Fold an item that read or wrote state; False if it has to wait for an older ticket."""
        items = self._items_of(attempt)
        assert isinstance(outcome, Outcome)
        assert attempt.index is not None
        committer = self._scheduler.committer
        outcome = committer.resolved(attempt, outcome)
        if items is None or outcome.failure is not None or outcome.result is None:
            self._finish(attempt, items, outcome)
            return True
        item = ItemOutcomes(
            attempt.node.index,
            attempt.visit,
            [(attempt.index, outcome.result)],
            writes=outcome.writes,
            sent=outcome.sent,
            taken=outcome.taken,
        )
        await self._add_results(items, item)
        if not committer.fold(item, attempt):
            return False
        self._scheduler.admission.leave(attempt)
        return True

    def _finish(self, attempt: Attempt, items: MapItems | None, outcome: Outcome) -> None:
        self._scheduler.admission.leave(attempt)
        self._scheduler.wake()
        assert attempt.index is not None
        if items is None:
            return
        if outcome.failure is not None:
            self._failed(attempt, items, outcome.failure)
        elif outcome.result is not None:
            items.succeeded(attempt.index, outcome.result)

    def _failed(self, attempt: Attempt, items: MapItems, failure: Failure) -> None:
        assert attempt.index is not None
        attempts = items.failed(attempt.index, failure)
        if attempts is not None:
            failpoint("retry.scheduled")
            again = attempt.again()
            again.ticket = None
            self._scheduler.timers.after(
                backoff_seconds(attempts, self._random.random()), self.put_back, again
            )

    async def fold_finished(self) -> bool:
        """Hand in one batch of finished items to be folded; False if there are none."""
        items = next((items for items in self._maps.values() if items.has_finished), None)
        if items is None:
            return False
        outcome = items.take_finished()
        await self._add_results(items, outcome)
        self._scheduler.arrive(outcome)
        return True

    async def _add_results(self, items: MapItems, outcome: ItemOutcomes) -> None:
        """With the last item, the whole result, if an expression is going to read it."""
        left = len(self._run.maps[items.node.index].unfinished)
        is_last = left == len(outcome.done) + len(outcome.failed)
        if is_last and self._plan.maps_in_expressions & items.node.bit:
            stored = self._scheduler.store.results(self._run.id, items.node.name)
            unstored = self._unstored_results.get(items.node.index, [])
            outcome.results = await merged_results(stored, [*unstored, *outcome.done])

    def _items_of(self, attempt: Attempt) -> MapItems | None:
        """The items that this attempt belongs to; None if their visit is over."""
        items = self._maps.get(attempt.node.index)
        return items if items is not None and items.visit == attempt.visit else None
