"""Drives the items of a run's maps: has `refill.py` start them, takes what they come to, has it folded by
the batch.

An item that touches no state passes on a short path: no arrival of its own, folded with its batch. One that reads or
writes state arrives, is validated and folded like any module run, in its place among the others.
"""

from __future__ import annotations

from collections.abc import Collection

from graphflow.engine.attempt import Attempt, CameTo
from graphflow.engine.bodies import Bodies
from graphflow.engine.committer import Committer
from graphflow.engine.drive import Drive
from graphflow.engine.line import Line
from graphflow.engine.maps.feed import Feed
from graphflow.engine.maps.items import MapItems
from graphflow.engine.maps.one_map import OneMap, open_items
from graphflow.engine.maps.refill import Refill
from graphflow.engine.returned import Returned
from graphflow.engine.slots import Slots
from graphflow.errors import StoreError
from graphflow.failpoints import failpoint
from graphflow.ids import ItemNumber, NodeNumber
from graphflow.inputs import Input, ItemOutcomes
from graphflow.rules.pages import follows
from graphflow.rules.retries import backoff_seconds
from graphflow.run import Failure
from graphflow.transition import MapChange, Transition


class MapDriver:
    """The maps of one run that are under way in this process."""

    def __init__(self, drive: Drive, line: Line, slots: Slots, committer: Committer, bodies: Bodies) -> None:
        self._drive = drive
        self._line = line
        self._slots = slots
        self._bodies = bodies
        #: By the numbers of their nodes.
        self._maps: dict[NodeNumber, OneMap] = {}
        #: Generators that were told to end and may not have.
        self._closing: set[Feed] = set()
        self._refill = Refill(drive, line, slots, committer, self._maps)

    @property
    def is_idle(self) -> bool:
        """Nothing of it will come without a slot: no generator is at work, no refill is due."""
        feeds = (one.feed for one in self._maps.values() if one.feed is not None)
        return not (self._refill.is_due or any(feed.is_at_work for feed in feeds))

    @property
    def has_open(self) -> bool:
        """Items may take slots at any time."""
        return bool(self._maps)

    @property
    def has_finished(self) -> bool:
        """Items wait for their commit."""
        return any(items.has_finished for items in open_items(self._maps))

    @property
    def waiting(self) -> list[Attempt]:
        """The items that run again, or that their ticket does not let start, the next one of each map first."""
        return [attempt for items in open_items(self._maps) for attempt in items.waiting]

    @property
    def has_waiting(self) -> bool:
        """Items could start if they were let."""
        return any(items.has_waiting for items in open_items(self._maps))

    def has_waiting_of(self, nodes: Collection[int]) -> bool:
        """Items of these nodes could start if they were let."""
        return any(items.has_waiting for items in open_items(self._maps) if items.node.index in nodes)

    def _map_of(self, attempt: Attempt) -> OneMap | None:
        """The map that an item belongs to; None if its visit is over."""
        one = self._maps.get(attempt.node.index)
        return one if one is not None and one.visit == attempt.visit else None

    def _items_of(self, attempt: Attempt) -> MapItems | None:
        """The items that an item is one of; None if their visit is over."""
        one = self._maps.get(attempt.node.index)
        return one.items if one is not None and one.visit == attempt.visit else None

    # Maps come and go

    def enter(self, index: NodeNumber) -> bool:
        """Go on with a map that was loaded; False if its source has not been read to its end in this visit."""
        state = self._drive.run.opened_map(index, self._drive.run.nodes[index].visits)
        if state is None or self._drive.plan.nodes[index].map is None:
            return False
        one = self._begin(index, state.visit)
        one.open()
        self._entered(one)
        is_handed_on = state.borrowed > 0 and follows(self._drive.plan, self._drive.run.active, index)
        return not state.has_more or is_handed_on

    def react(self, transition: Transition) -> None:
        for index, change in transition.maps.items():
            self._react_to(index, change)
        for place in transition.items_ready:
            one = self._maps.get(place.node)
            if one is not None and one.items is not None and place.item is not None:
                one.items.wake(place.item)
                self.refill_soon()

    def _react_to(self, index: NodeNumber, change: MapChange) -> None:
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

    def folded(self, attempt: Attempt, incoming: Input) -> None:
        """What it came to was folded. From the generator that it has begun, if it read a source, more is going to come."""
        if isinstance(incoming, ItemOutcomes) and (items := self._items_of(attempt)) is not None:
            items.told_of_retries(incoming.retried)
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
                self._drive.start(self._reduce(one))
            if one.has_page:
                # It had to wait until the page before it was stored.
                self._drive.wake()
        self.refill_soon()

    def drop(self, index: NodeNumber) -> None:
        """The map's visit is over; items that have not started leave the line."""
        one = self._maps.pop(index, None)
        if one is None:
            return
        if one.feed is not None:
            self._close_feed(one.feed)
        for attempt in one.items.take_line() if one.items is not None else ():
            self._line.leave(attempt)

    async def close(self) -> None:
        for one in self._maps.values():
            if one.feed is not None:
                self._close_feed(one.feed)
        self._maps.clear()
        for feed in list(self._closing):
            await feed.wait_closed()

    def _begin(self, index: NodeNumber, visit: int) -> OneMap:
        self.drop(index)
        node = self._drive.plan.nodes[index]
        one = self._maps[index] = OneMap(self._drive, node, visit, self._bodies.of_items(index))
        return one

    def _entered(self, one: OneMap) -> None:
        failpoint("map.entered")
        if one.reducer is not None:
            self._drive.start(self._reduce(one))
        if one.is_whole:
            self._drive.start(self._end(one))
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

    def refill_soon(self) -> None:
        if self._maps:
            self._refill.soon()

    def put_back(self, attempt: Attempt) -> None:
        """An item that runs again, before the others."""
        if (items := self._items_of(attempt)) is not None:
            items.put_back(attempt)
            self.refill_soon()

    # Items end

    def plain_ended(self, attempt: Attempt, came_to: CameTo) -> None:
        """An item that can touch no state is over: it is folded with its batch."""
        attempt.task = None
        self.refill_soon()
        self._drive.wake()
        if (items := self._items_of(attempt)) is not None:
            items.note_time(attempt)
            if isinstance(came_to, str | Returned):
                self._conclude(attempt, items, came_to)

    def ended(self, attempt: Attempt) -> None:
        """Another item is over: others may run in its place."""
        self.refill_soon()
        if (items := self._items_of(attempt)) is not None:
            items.note_time(attempt)

    def conclude(self, attempt: Attempt, returned: Returned) -> None:
        """What such an item came to, if that is folded with its batch: it touched no state, or nothing of that counts."""
        self._line.leave(attempt)
        self._drive.wake()
        if (items := self._items_of(attempt)) is not None:
            self._conclude(attempt, items, returned)

    def _conclude(self, attempt: Attempt, items: MapItems, came_to: Returned | str) -> None:
        if isinstance(came_to, str):
            assert attempt.index is not None
            items.succeeded(attempt.index, came_to)
        elif came_to.failure is not None:
            self._failed(attempt, items, came_to.failure)
        else:
            for index, text in _results(attempt, came_to):
                items.succeeded(index, text)

    def _failed(self, attempt: Attempt, items: MapItems, failure: Failure) -> None:
        attempts = items.failed(attempt.indexes, failure)
        if attempts is not None:
            failpoint("retry.scheduled")
            again = attempt.again()
            again.ticket = None
            seconds = backoff_seconds(attempts, self._drive.random.random())
            self._drive.timers.after(seconds, self.put_back, again)

    async def outcome_of(
        self,
        attempt: Attempt,
        returned: Returned,
        writes: dict[str, str | None],
        ttls: dict[str, float | None],
    ) -> ItemOutcomes | None:
        """What an item that read or wrote state comes to, to be folded; None if its visit is over."""
        one, transaction = self._map_of(attempt), attempt.transaction
        if one is None or one.items is None or transaction is None:
            return None
        outcome = ItemOutcomes(
            attempt.node.index,
            attempt.visit,
            _results(attempt, returned),
            writes=writes,
            ttls=ttls,
            sent=transaction.outgoing,
            taken=transaction.taken,
            retried=one.items.retried,
            pace=one.items.pace(self._refill.in_flight(one.items)),
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
                in_flight = self._refill.in_flight(one.items)
                return await one.completed(one.items.take_finished(in_flight))
        for one in list(self._maps.values()):
            if one.has_page:
                return await one.page()
        return None


def _results(attempt: Attempt, returned: Returned) -> list[tuple[ItemNumber, str]]:
    """Index and result of the item, or of each of a batch."""
    if attempt.batch:
        return [*zip(attempt.batch, returned.results, strict=True)]
    return [(index, returned.result or "null") for index in attempt.indexes]
