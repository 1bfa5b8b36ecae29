"""Drives the items of a run's maps: starts them in free slots, takes what they come to, has it folded by the batch.

An item that touches no state passes on a short path: one task, no arrival of its own, folded with its batch. One that
reads or writes state is validated and folded like any module run, in its place among the others.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from graphflow.engine.attempt import Attempt, Returned
from graphflow.engine.maps import MapItems
from graphflow.engine.plain_items import CameTo
from graphflow.engine.plan import bits, borrowed_from
from graphflow.engine.reducer import Reducer
from graphflow.engine.slots import Ended
from graphflow.engine.tasks import start_task
from graphflow.engine.visits import backoff_seconds
from graphflow.errors import CorruptState, StoreError
from graphflow.failpoints import failpoint
from graphflow.run import Failure, ItemOutcomes, ItemsStored, Transition

if TYPE_CHECKING:
    from graphflow.engine.scheduler import Scheduler
    from graphflow.engine.sources import Feed

#: Items started before the loop gets a turn: at first, and at most.
FIRST_BURST_ITEMS = 16
BURST_ITEMS = 64
#: Seconds of the processor that one turn of the loop should take for the items that start with it.
BURST_SECONDS = 0.01
#: Items without a record, or twice as many as run at a time, beyond which a generator is not drawn from.
WINDOW_ITEMS = 2_000


class MapDriver:
    """The maps of one run that are under way in this process."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._plan = scheduler.plan
        self._run = scheduler.run
        self._loop = asyncio.get_running_loop()
        self._random = random.Random()
        self._maps: dict[int, MapItems] = {}
        #: Items that the commit under way stores: they can run when it is stored. None for those of a map that is opened
        #: with what is in the store already.
        self._unstored: dict[int, list[tuple[int, str]] | None] = {}
        #: Results that the commit under way stores, of maps that an expression reads.
        self._unstored_results: dict[int, list[tuple[int, str]]] = {}
        #: Folds of the results of maps that are reduced.
        self._reducers: dict[int, Reducer] = {}
        #: Generators from which maps have their items.
        self._feeds: dict[int, Feed] = {}
        #: Those that were told to end and may not have.
        self._closing: set[Feed] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        #: The refill that was asked for and has not come.
        self._refill_due: asyncio.Handle | None = None
        #: Items that may start at a time, and how many of them the last refill has started when the clock stood so.
        self._burst = FIRST_BURST_ITEMS
        self._started = 0
        self._clock = 0.0

    @property
    def is_idle(self) -> bool:
        """Nothing of it will come without a slot: no page is being read, no generator is at work, no refill is due."""
        return not self._tasks and not self._feeds and not self._refill_due

    @property
    def has_open(self) -> bool:
        """Items may take slots at any time."""
        return bool(self._maps)

    @property
    def has_finished(self) -> bool:
        """Items wait for their commit."""
        return any(items.has_finished for items in self._maps.values())

    # Maps come and go

    def enter(self, index: int) -> bool:
        """Go on with a map that was loaded; False if its source has not been read to its end in this visit."""
        state = self._run.opened_map(index, self._run.nodes[index].visits)
        source = self._plan.nodes[index].map
        if state is None or source is None:
            return False
        self._open(index)
        return not state.has_more or (source.pipelined and state.borrowed > 0)

    def adopt(self, attempt: Attempt) -> None:
        """What it has read was folded; from the generator that it has begun more is going to come."""
        feed, attempt.feed = attempt.feed, None
        if feed is None:
            return
        state = self._run.nodes[feed.node.index]
        if not state.status.is_active or state.visits != feed.visit or feed.is_over:
            self._close_feed(feed)
            return
        self._feeds[feed.node.index] = feed
        feed.on_news = self._scheduler.wake
        if feed.has_news:
            self._scheduler.wake()

    def react(self, transition: Transition) -> None:
        for index, change in transition.maps.items():
            if self._plan.maps_in_expressions >> index & 1 or self._plan.nodes[index].is_reduced:
                self._unstored_results.setdefault(index, []).extend(change.done)
            state = self._run.nodes[index]
            if not state.status.is_active or state.visits != change.visit:
                self.drop(index)
            elif change.opened is not None:
                failpoint("map.opened")
                has_texts = bool(change.opened and change.opened[0][1])
                self._unstored[index] = [*change.opened] if has_texts else None
            elif change.has_more is not None:
                fresh = self._unstored.setdefault(index, [])
                if fresh is not None:
                    fresh += change.added
                if (items := self._maps.get(index)) is not None:
                    items.awaits_page = True
        for place in transition.items_ready:
            if (items := self._maps.get(place.node)) is not None and place.item is not None:
                items.wake(place.item)
                self.refill_soon()

    def stored(self) -> None:
        """What was folded is stored now."""
        for index, fresh in self._unstored.items():
            items = self._maps.get(index)
            if items is None or items.visit != self._run.maps[index].visit:
                self._open(index, fresh or ())
            elif fresh is not None:
                items.add(fresh)
                self.refill_soon()
        for index, done in self._unstored_results.items():
            if (reducer := self._reducers.get(index)) is not None:
                reducer.keep(done)
                self._start(self._reduce(index, reducer))
        self._unstored.clear()
        self._unstored_results.clear()

    def drop(self, index: int) -> None:
        """The map's visit is over; items that have not started leave the line."""
        self._unstored.pop(index, None)
        self._reducers.pop(index, None)
        if (feed := self._feeds.pop(index, None)) is not None:
            self._close_feed(feed)
        items = self._maps.pop(index, None)
        if items is not None:
            for attempt in items.take_line():
                self._scheduler.admission.leave(attempt)

    async def close(self) -> None:
        self._maps.clear()
        for task in self._tasks:
            task.cancel()
        for feed in self._feeds.values():
            self._close_feed(feed)
        self._feeds.clear()
        for feed in list(self._closing):
            await feed.wait_closed()

    def _close_feed(self, feed: Feed) -> None:
        feed.close()
        self._closing = {closed for closed in self._closing if not closed.is_closed}
        self._closing.add(feed)

    def _open(self, index: int, fresh: Sequence[tuple[int, str]] = ()) -> None:
        failpoint("map.entered")
        waiting = {place.item for place in self._run.waits if place.node == index and place.item is not None}
        node, state = self._plan.nodes[index], self._run.maps[index]
        items = self._maps[index] = MapItems(node, state, waiting, fresh)
        if node.map is not None and node.map.reduce is not None:
            read = partial(self._scheduler.store.result_pages, self._run.id, node.name)
            reducer = self._reducers[index] = Reducer(node.name, node.map.reduce, state, read)
            self._start(self._reduce(index, reducer))
        if not state.unfinished and not state.has_more:
            self._start(self._end(items))
        self.refill_soon()

    async def _end(self, items: MapItems) -> None:
        """Every item has its record, yet the map has failed: its run is tried again."""
        outcome = ItemOutcomes(items.node.index, items.visit)
        try:
            await self._add_results(items, outcome)
        except StoreError as error:
            self._scheduler.break_off(error)
        else:
            self._scheduler.arrive(outcome)

    async def _reduce(self, index: int, reducer: Reducer) -> None:
        try:
            await reducer.follow(lambda: (item for item, _ in self._unstored_results.get(index, ())))
        except StoreError as error:
            self._scheduler.break_off(error)
        if reducer.failure is not None and not reducer.is_ending and self._reducers.get(index) is reducer:
            visit = self._run.maps[index].visit
            self._scheduler.arrive(ItemOutcomes(index, visit, reduce_failure=reducer.failure))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the items; it is cancelled when the driving ends."""
        task = start_task(self._loop, work, self._scheduler.slots.context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Pages of a source

    async def fold_page(self) -> bool:
        """Hand in one page of what a generator has yielded to be folded; False if there is none, or no room for it."""
        for index, feed in self._feeds.items():
            if feed.has_news and index not in self._unstored and self._has_room_for_page(index):
                page = feed.page()
                if feed.is_over:
                    del self._feeds[index]
                await self._add_results_to_page(page)
                self._scheduler.arrive(page)
                return True
        return False

    def _has_room_for_page(self, index: int) -> bool:
        width = self._plan.max_concurrent_tasks * (self._batch_size(index) or 1)
        window = max(WINDOW_ITEMS, 2 * width)
        followers = bits(self._plan.nodes[index].streams_to & self._run.active)
        return all(
            len(self._run.maps[place].unfinished) < window
            for place in (index, *followers)
            if place in self._run.maps
        )

    def _batch_size(self, index: int) -> int | None:
        plan = self._plan.nodes[index].map
        return None if plan is None else plan.batch_size

    # Items start

    def refill_soon(self) -> None:
        if self._maps and self._refill_due is None:
            self._refill_due = self._loop.call_soon(self._refill, context=self._scheduler.slots.context)

    def _refill(self) -> None:
        """Start items in free slots, a burst at a time; the rest when the loop has had a turn, and all of these theirs."""
        self._refill_due = None
        self._measure()
        if self._scheduler.is_held:
            return
        slots, suspects = self._scheduler.slots, self._scheduler.admission.suspects
        for items in list(self._maps.values()):
            if items.needs_page:
                self._load_page(items)
            for _ in range(items.startable):
                if slots.free <= 0:
                    break
                if self._started >= self._burst:
                    self.refill_soon()
                    return
                wanted = None if suspects is None else suspects.items.get(items.node.index, ())
                attempt = items.take() if wanted is None else items.take_among(wanted)
                if attempt is None:
                    break
                if attempt.body is None and not self._scheduler.admission.may_start(attempt):
                    items.postpone(attempt)
                    continue
                self._started += 1
                slots.free -= 1
                slots.launch(attempt)
            if items.needs_page:
                # What has just been started has made room.
                self._load_page(items)

    def _measure(self) -> None:
        """Fit the burst to what an item takes of the processor before it first waits."""
        clock = time.thread_time()
        if self._started:
            spent = (clock - self._clock) / self._started
            self._burst = max(1, min(BURST_ITEMS, int(BURST_SECONDS / max(spent, 1e-6))))
        self._started, self._clock = 0, clock

    def put_back(self, attempt: Attempt) -> None:
        """An item that runs again, before the others."""
        if (items := self._items_of(attempt)) is not None:
            items.put_back(attempt)
            self.refill_soon()

    def _load_page(self, items: MapItems) -> None:
        items.is_loading = True
        self._start(self._read_page(items))

    async def _read_page(self, items: MapItems) -> None:
        indexes = items.next_page()
        try:
            lender = borrowed_from(self._plan, self._run.maps[items.node.index], items.node.index)
            texts = await self._scheduler.store.items(self._run.id, items.node.name, indexes, lender)
        except CorruptState as error:
            # Only what the store still holds to can be corrupt.
            self._scheduler.break_off(await self._scheduler.committer.loss() or error)
            return
        except Exception as error:
            self._scheduler.break_off(error)
            return
        items.add_page(indexes, texts)
        items.is_loading = False
        self.refill_soon()

    def step_aside(self, attempt: Attempt) -> None:
        """An item waits for a message: others may run in its place."""
        if (items := self._items_of(attempt)) is not None and attempt.is_item:
            items.stepped_aside()
        self.refill_soon()

    def has_room(self, attempt: Attempt) -> bool:
        items = self._items_of(attempt) if attempt.is_item else None
        return items is None or items.has_room

    def come_back(self, attempt: Attempt) -> None:
        if (items := self._items_of(attempt)) is not None and attempt.is_item:
            items.came_back()

    # Items end

    def item_ended(self, attempt: Attempt, came_to: CameTo) -> None:
        """A plain item is over: it is folded with its batch."""
        # Its task refers to it, by its context: freed now, it is nothing that the garbage collector has to find.
        attempt.task = None
        self.refill_soon()
        self._scheduler.wake()
        items = self._items_of(attempt)
        if items is None:
            return
        items.ended(attempt)
        if isinstance(came_to, str):
            assert attempt.index is not None
            items.succeeded(attempt.index, came_to)
        elif came_to is not None:
            self._conclude(attempt, items, came_to)

    def ended(self, attempt: Attempt, ended: Ended) -> bool:
        """Any other attempt is over. True if that is all: the item touched no state and is folded with its batch."""
        self.refill_soon()
        if not attempt.is_item:
            return False
        items = self._items_of(attempt)
        if items is not None and not attempt.is_aside:
            items.ended(attempt)
        if not isinstance(ended, Returned):
            return False
        if attempt.transaction is not None and not attempt.transaction.is_empty:
            return False
        self._finish(attempt, items, ended)
        return True

    async def take(self, attempt: Attempt, returned: Returned) -> bool:
        """Fold an item that read or wrote state; False if it has to wait for an older ticket."""
        items, transaction = self._items_of(attempt), attempt.transaction
        assert transaction is not None
        committer = self._scheduler.committer
        writes = {} if returned.failure is not None else committer.resolved(attempt)
        if isinstance(writes, Failure):
            returned = Returned(failure=writes)
        if items is None or isinstance(writes, Failure) or returned.failure is not None:
            self._finish(attempt, items, returned)
            return True
        item = ItemOutcomes(
            attempt.node.index,
            attempt.visit,
            _results(attempt, returned),
            writes=writes,
            sent=transaction.sent,
            taken=transaction.taken,
        )
        await self._add_results(items, item)
        if not committer.fold(item, attempt):
            if (reducer := self._reducers.get(item.node)) is not None and reducer.is_ending:
                # It may be repeated before its turn comes, and come to something else.
                reducer.begin_anew()
            return False
        self._scheduler.admission.leave(attempt)
        return True

    def _finish(self, attempt: Attempt, items: MapItems | None, returned: Returned) -> None:
        self._scheduler.admission.leave(attempt)
        self._scheduler.wake()
        if items is not None:
            self._conclude(attempt, items, returned)

    def _conclude(self, attempt: Attempt, items: MapItems, returned: Returned) -> None:
        if returned.failure is not None:
            self._failed(attempt, items, returned.failure)
        elif attempt.batch:
            for index, text in _results(attempt, returned):
                items.succeeded(index, text)
        elif attempt.index is not None and returned.result is not None:
            items.succeeded(attempt.index, returned.result)

    def _failed(self, attempt: Attempt, items: MapItems, failure: Failure) -> None:
        attempts = items.failed(attempt.indexes, failure)
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
        """With the last item, the whole result, if an expression is going to read it or it is reduced."""
        opened = self._run.maps[items.node.index]
        is_last = len(opened.unfinished) == len(outcome.done) + len(outcome.failed)
        if is_last and not opened.has_more:
            outcome.results = await self._results(items.node.index, outcome.done)
        if (reducer := self._reducers.get(items.node.index)) is not None:
            outcome.reduce_failure = reducer.failure

    async def _add_results_to_page(self, page: ItemsStored) -> None:
        """The same with the last page, if all items that came before it have their records."""
        if not page.has_more and not page.items and not self._run.maps[page.node].unfinished:
            page.results = await self._results(page.node, ())
        if (reducer := self._reducers.get(page.node)) is not None:
            page.reduce_failure = reducer.failure

    async def _results(self, index: int, last: Sequence[tuple[int, str]]) -> str | None:
        """What the map comes to as JSON text: from the stored records and those that are about to be stored."""
        if (reducer := self._reducers.get(index)) is not None:
            return await reducer.result([*self._unstored_results.get(index, ()), *last])
        if not self._plan.maps_in_expressions >> index & 1:
            return None
        pages = self._scheduler.store.result_pages(self._run.id, self._plan.nodes[index].name)
        records = [record async for page in pages for record in page]
        unstored = sorted([*self._unstored_results.get(index, ()), *last])
        return f"[{','.join(text for _, text in heapq.merge(records, unstored))}]"

    def _items_of(self, attempt: Attempt) -> MapItems | None:
        """The items that this attempt belongs to; None if their visit is over."""
        items = self._maps.get(attempt.node.index)
        return items if items is not None and items.visit == attempt.visit else None


def _results(attempt: Attempt, returned: Returned) -> list[tuple[int, str]]:
    """Index and result of the item, or of each of a batch."""
    if attempt.batch:
        return [*zip(attempt.batch, returned.results, strict=True)]
    return [(index, returned.result or "null") for index in attempt.indexes]
