"""Drives the items of a run's maps: starts them in free slots, takes what they come to, has it folded by the batch.

An item that touches no state passes on a short path: no arrival of its own, folded with its batch. One that reads or
writes state arrives, is validated and folded like any module run, in its place among the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from graphflow.clock import thread_time
from graphflow.engine.attempt import Attempt
from graphflow.engine.bodies import Bodies
from graphflow.engine.committer import Committer
from graphflow.engine.drive import Drive
from graphflow.engine.line import Line
from graphflow.engine.maps import MapItems
from graphflow.engine.one_map import OneMap
from graphflow.engine.plain_items import PlainBody, place_of
from graphflow.engine.plan import borrowed_from
from graphflow.engine.returned import Returned
from graphflow.engine.slots import Slots
from graphflow.engine.sources import Feed
from graphflow.engine.visits import backoff_seconds
from graphflow.errors import CorruptState, StoreError
from graphflow.failpoints import failpoint
from graphflow.run import Failure, Input, ItemOutcomes, MapChange, Transition

#: Items started before the loop gets a turn: at first, and at most.
FIRST_BURST_ITEMS = 16
BURST_ITEMS = 64
#: Seconds of the processor that one turn of the loop should take for the items that start with it.
BURST_SECONDS = 0.01


class MapDriver:
    """The maps of one run that are under way in this process."""

    def __init__(self, drive: Drive, line: Line, slots: Slots, committer: Committer, bodies: Bodies) -> None:
        self._drive = drive
        self._line = line
        self._slots = slots
        self._committer = committer
        self._bodies = bodies
        #: By the numbers of their nodes.
        self._maps: dict[int, OneMap] = {}
        #: Generators that were told to end and may not have.
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
        feeds = (one.feed for one in self._maps.values() if one.feed is not None)
        return not (self._tasks or self._refill_due or any(feed.is_at_work for feed in feeds))

    @property
    def has_open(self) -> bool:
        """Items may take slots at any time."""
        return bool(self._maps)

    @property
    def has_finished(self) -> bool:
        """Items wait for their commit."""
        return any(items.has_finished for items in self._open_items())

    @property
    def waiting(self) -> list[Attempt]:
        """The items that run again, or that their ticket does not let start, the next one of each map first."""
        return [attempt for items in self._open_items() for attempt in items.waiting]

    @property
    def has_waiting(self) -> bool:
        """Items could start if they were let."""
        return any(items.has_waiting for items in self._open_items())

    def _open_items(self) -> list[MapItems]:
        return [one.items for one in self._maps.values() if one.items is not None]

    def _map_of(self, attempt: Attempt) -> OneMap | None:
        """The map that an item belongs to; None if its visit is over."""
        one = self._maps.get(attempt.node.index)
        return one if one is not None and one.visit == attempt.visit and one.items is not None else None

    # Maps come and go

    def enter(self, index: int) -> bool:
        """Go on with a map that was loaded; False if its source has not been read to its end in this visit."""
        state = self._drive.run.opened_map(index, self._drive.run.nodes[index].visits)
        source = self._drive.plan.nodes[index].map
        if state is None or source is None:
            return False
        one = self._begin(index, state.visit)
        one.open()
        self._entered(one)
        return not state.has_more or (source.pipelined and state.borrowed > 0)

    def react(self, transition: Transition) -> None:
        for index, change in transition.maps.items():
            self._react_to(index, change)
        for place in transition.items_ready:
            one = self._maps.get(place.node)
            if one is not None and one.items is not None and place.item is not None:
                one.items.wake(place.item)
                self.refill_soon()

    def _react_to(self, index: int, change: MapChange) -> None:
        node = self._drive.run.nodes[index]
        if not node.status.is_active or node.visits != change.visit:
            self.drop(index)
            return
        if change.opened is not None:
            failpoint("map.opened")
            self._begin(index, change.visit).opens(change.opened)
        elif change.has_more is not None and index in self._maps:
            self._maps[index].add(change.added)
        if index in self._maps:
            self._maps[index].add_results(change.done)

    def adopt(self, attempt: Attempt) -> None:
        """What it has read was folded; from the generator that it has begun more is going to come."""
        feed, attempt.feed = attempt.feed, None
        if feed is None:
            return
        one = self._maps.get(feed.node.index)
        if one is None or one.visit != feed.visit or feed.is_over:
            self._close_feed(feed)
            return
        one.feed = feed
        feed.on_news = self._drive.wake
        if feed.has_news:
            self._drive.wake()

    def stored(self) -> None:
        """What was folded is stored now."""
        for one in list(self._maps.values()):
            is_new = one.items is None
            has_results = one.stored()
            if is_new:
                self._entered(one)
            elif has_results and one.reducer is not None:
                self._start(self._reduce(one))
        self.refill_soon()

    def drop(self, index: int) -> None:
        """The map's visit is over; items that have not started leave the line."""
        one = self._maps.pop(index, None)
        if one is None:
            return
        if one.feed is not None:
            self._close_feed(one.feed)
        for attempt in one.items.take_line() if one.items is not None else ():
            self._line.leave(attempt)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for one in self._maps.values():
            if one.feed is not None:
                self._close_feed(one.feed)
        self._maps.clear()
        for feed in list(self._closing):
            await feed.wait_closed()

    def _begin(self, index: int, visit: int) -> OneMap:
        self.drop(index)
        node = self._drive.plan.nodes[index]
        one = self._maps[index] = OneMap(self._drive, node, visit, self._bodies.of_items(index))
        return one

    def _entered(self, one: OneMap) -> None:
        failpoint("map.entered")
        if one.reducer is not None:
            self._start(self._reduce(one))
        if one.is_whole:
            self._start(self._end(one))
        self.refill_soon()

    def _close_feed(self, feed: Feed) -> None:
        feed.close()
        self._closing = {closed for closed in self._closing if not closed.is_closed}
        self._closing.add(feed)

    async def _end(self, one: OneMap) -> None:
        """Every item has its record, yet the map has failed: its run is tried again."""
        try:
            self._drive.arrive(await one.completed(ItemOutcomes(one.node.index, one.visit)))
        except StoreError as error:
            self._drive.break_off(error)

    async def _reduce(self, one: OneMap) -> None:
        try:
            failed = await one.follow_results()
        except StoreError as error:
            self._drive.break_off(error)
            return
        if failed is not None and self._maps.get(one.node.index) is one:
            self._drive.arrive(failed)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the items; it is cancelled when the driving ends."""
        task = self._drive.loop.create_task(work, context=self._drive.context)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._drive.look_again()

    # Items start

    def refill_soon(self) -> None:
        if self._maps and self._refill_due is None:
            self._refill_due = self._drive.loop.call_soon(self._refill, context=self._drive.context)

    def _refill(self) -> None:
        """Start items in free slots, a burst at a time; the rest when the loop has had a turn, and all of these theirs."""
        self._refill_due = None
        self._measure()
        if self._drive.is_held:
            return
        for items in self._open_items():
            if items.needs_page:
                self._load_page(items)
            self._start_items(items)
            if items.needs_page:
                # What has just been started has made room.
                self._load_page(items)
        if self._started >= self._burst:
            self.refill_soon()
        elif not self._started:
            self._drive.look_again()

    def _start_items(self, items: MapItems) -> None:
        node = items.node
        room = min(
            self._slots.room_for_items(node.index, node.config.max_concurrency), self._burst - self._started
        )
        startable = items.startable(self._line.may_start, self._line.items_to_run(node))
        while room > 0 and (attempt := next(startable, None)) is not None:
            room -= 1
            self._started += 1
            self._launch(attempt)

    def _launch(self, attempt: Attempt) -> None:
        self._slots.take(attempt)
        body = attempt.body
        if isinstance(body, PlainBody) and body.is_pulled:
            self._slots.delegate(attempt, body.call.run, attempt.text, place_of(attempt))
        else:
            self._slots.launch(attempt)

    def _measure(self) -> None:
        """Fit the burst to what an item takes of the processor before it first waits."""
        clock = thread_time()
        if self._started:
            spent = (clock - self._clock) / self._started
            self._burst = max(1, min(BURST_ITEMS, int(BURST_SECONDS / max(spent, 1e-6))))
        self._started, self._clock = 0, clock

    def put_back(self, attempt: Attempt) -> None:
        """An item that runs again, before the others."""
        if (one := self._map_of(attempt)) is not None and one.items is not None:
            one.items.put_back(attempt)
            self.refill_soon()

    def _load_page(self, items: MapItems) -> None:
        items.is_loading = True
        self._start(self._read_page(items))

    async def _read_page(self, items: MapItems) -> None:
        indexes = items.next_page()
        node = items.node
        try:
            lender = borrowed_from(self._drive.plan, self._drive.run.maps[node.index], node.index)
            texts = await self._drive.store.items(self._drive.run.id, node.name, indexes, lender)
        except CorruptState as error:
            # Only what the store still holds to can be corrupt.
            self._drive.break_off(await self._committer.loss() or error)
            return
        except Exception as error:
            self._drive.break_off(error)
            return
        items.add_page(indexes, texts)
        items.is_loading = False
        self.refill_soon()

    # Items end

    def ended(self, attempt: Attempt) -> None:
        """An item is over, and others may run in its place."""
        self.refill_soon()
        if (one := self._map_of(attempt)) is not None and one.items is not None and not attempt.is_aside:
            one.items.note_time(attempt)

    def conclude(self, attempt: Attempt, came_to: Returned | str) -> None:
        """What an item came to, which is folded with its batch: it touched no state, or nothing of that counts."""
        self._line.leave(attempt)
        self._drive.wake()
        one = self._map_of(attempt)
        if one is None or one.items is None or attempt.index is None:
            return
        if isinstance(came_to, str):
            one.items.succeeded(attempt.index, came_to)
        elif came_to.failure is not None:
            self._failed(attempt, one.items, came_to.failure)
        else:
            for index, text in _results(attempt, came_to):
                one.items.succeeded(index, text)

    def _failed(self, attempt: Attempt, items: MapItems, failure: Failure) -> None:
        attempts = items.failed(attempt.indexes, failure)
        if attempts is not None:
            failpoint("retry.scheduled")
            again = attempt.again()
            again.ticket = None
            seconds = backoff_seconds(attempts, self._drive.random.random())
            self._drive.timers.after(seconds, self.put_back, again)

    async def outcome_of(
        self, attempt: Attempt, returned: Returned, writes: Mapping[str, str | None]
    ) -> ItemOutcomes | None:
        """What an item that read or wrote state comes to, to be folded; None if its visit is over."""
        one, transaction = self._map_of(attempt), attempt.transaction
        if one is None or transaction is None:
            return None
        outcome = ItemOutcomes(
            attempt.node.index,
            attempt.visit,
            _results(attempt, returned),
            writes=dict(writes),
            sent=transaction.outgoing,
            taken=transaction.taken,
        )
        return await one.completed(outcome)

    def parked(self, attempt: Attempt) -> None:
        """What was made of an item has to wait for an older ticket."""
        if (one := self._map_of(attempt)) is not None:
            one.parked()

    async def next_input(self) -> Input | None:
        """A batch of finished items, else a page of what a generator has yielded; None if there is neither."""
        for one in list(self._maps.values()):
            if one.items is not None and one.items.has_finished:
                in_flight = self._slots.running(one.node.index)
                return await one.completed(one.items.take_finished(in_flight))
        for one in list(self._maps.values()):
            if one.has_page:
                return await one.page()
        return None


def _results(attempt: Attempt, returned: Returned) -> list[tuple[int, str]]:
    """Index and result of the item, or of each of a batch."""
    if attempt.batch:
        return [*zip(attempt.batch, returned.results, strict=True)]
    return [(index, returned.result or "null") for index in attempt.indexes]
