"""Which results has a map of a stored run, in input order or as they are committed? Asked from any process.

Only reads, so that nobody who lags or stops holds up the run. The events say in which order items were committed, the
records which results there are: where events are missing, because the stream was cut or the items were inherited by a
fork, records that were not handed out yet come in input order. One visit is read, that of the first look.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from itertools import islice

from graphflow.errors import MapNotFound
from graphflow.events import (
    Event,
    EventsTrimmed,
    ItemsFinished,
    MapOpened,
    NodeEvent,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    RunFinished,
    indexes_of,
)
from graphflow.ids import ItemNumber, RunId, item_range
from graphflow.planning.describe import is_map
from graphflow.store.contract import MapLook, Store

#: Results that are read at a time.
PAGE_RESULTS = 500
#: Seconds after which a reader that has caught up looks for more.
POLL_SECONDS = 0.2
#: Where a run's events begin.
_BEGINNING = "0"

#: Index of the item, and its result as JSON text.
Record = tuple[ItemNumber, str]


async def results_in_order(store: Store, run_id: RunId, node: str) -> AsyncGenerator[Record, None]:
    """What is there, in input order. RunNotFound, MapNotFound."""
    look = await _first_look(store, run_id, node)
    async for record in _Visit(store, run_id, node, look.recorded).rest():
        yield record


async def results_as_completed(store: Store, run_id: RunId, node: str) -> AsyncGenerator[Record, None]:
    """Each result once, as items are committed, until the visit has settled, is replaced, or the run is over.

    RunNotFound, also if the run is deleted meanwhile; MapNotFound.
    """
    look = await _first_look(store, run_id, node)
    visit = _Visit(store, run_id, node, max(1, look.visit))
    after, has_ended = _BEGINNING, False
    while not (visit.has_settled or visit.is_replaced):
        page = await store.events(run_id, after)
        async for record in visit.of_page([event for _, event in page]):
            yield record
        if page:
            after = page[-1][0]
            continue
        if has_ended:
            break
        if not visit.knows_beginning:
            async for record in visit.rest():
                yield record
        # Once more through the events after the look that says so: what was committed before it is there.
        has_ended = (await store.look_at_map(run_id, node)).has_ended(visit.number)
        if not has_ended:
            await asyncio.sleep(POLL_SECONDS)
    async for record in visit.rest():
        yield record


async def _first_look(store: Store, run_id: RunId, node: str) -> MapLook:
    look = await store.look_at_map(run_id, node)
    maps = [name for name, description in (await store.graph(run_id)).items() if is_map(description)]
    if node not in maps:
        raise MapNotFound(run_id, node, maps)
    return look


class _Visit:
    """One visit of a map, and which of its results have been handed out."""

    def __init__(self, store: Store, run_id: RunId, node: str, number: int) -> None:
        self.number = number
        #: Whether no result was committed before the events that have been read, or all those have been handed out.
        self.knows_beginning = False
        self.has_settled = False
        #: Its records have made room for those of a later visit.
        self.is_replaced = False
        self._store = store
        self._run_id = run_id
        self._node = node
        self._handed_out = _IndexSet()

    async def of_page(self, events: Sequence[Event]) -> AsyncIterator[Record]:
        """The results that these events tell of, up to the one that settles the visit."""
        waiting: list[ItemNumber] = []
        for event in events:
            if self._is_gap(event):
                self.knows_beginning = True
                async for record in self.rest():
                    yield record
            if isinstance(event, ItemsFinished) and self._is_mine(event):
                waiting += indexes_of(event.indexes)
            elif isinstance(event, MapOpened) and self._is_mine(event):
                self.knows_beginning = True
            elif self._settles(event):
                self.has_settled = True
                break
            if len(waiting) >= PAGE_RESULTS:
                for record in await self._fetch(waiting):
                    yield record
                waiting = []
        for record in await self._fetch(waiting):
            yield record

    async def rest(self) -> AsyncIterator[Record]:
        """What is there and was not handed out, in input order."""
        self.knows_beginning = True
        look = await self._store.look_at_map(self._run_id, self._node)
        self.is_replaced = look.recorded > self.number
        if look.recorded != self.number:
            return
        missing = self._handed_out.missing(look.span)
        while not self.is_replaced and (page := list(islice(missing, PAGE_RESULTS))):
            for record in await self._fetch(page):
                yield record

    async def _fetch(self, indexes: Sequence[ItemNumber]) -> list[Record]:
        """Of these, what is there and was not handed out; it counts as handed out."""
        wanted = [index for index in dict.fromkeys(indexes) if index not in self._handed_out]
        if not wanted or self.is_replaced:
            return []
        texts = await self._store.visit_results(self._run_id, self._node, self.number, wanted)
        if texts is None:
            self.is_replaced = True
            return []
        found = [(index, text) for index, text in zip(wanted, texts, strict=True) if text is not None]
        for index, _ in found:
            self._handed_out.add(index)
        return found

    def _is_mine(self, event: NodeEvent) -> bool:
        return event.node == self._node and event.visit == self.number

    def _is_gap(self, event: Event) -> bool:
        """Whether results may have been committed of which no event tells."""
        if isinstance(event, EventsTrimmed):
            return True
        return not self.knows_beginning and isinstance(event, ItemsFinished) and self._is_mine(event)

    def _settles(self, event: Event) -> bool:
        if isinstance(event, NodeSucceeded | NodeFailed | NodeStopped):
            return self._is_mine(event)
        return isinstance(event, RunFinished)


class _IndexSet:
    """Indexes from 0, one bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def __contains__(self, index: ItemNumber) -> bool:
        place = index >> 3
        return place < len(self._bits) and bool(self._bits[place] >> (index & 7) & 1)

    def add(self, index: ItemNumber) -> None:
        place = index >> 3
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits)))
        self._bits[place] |= 1 << (index & 7)

    def missing(self, end: int) -> Iterator[ItemNumber]:
        """The indexes below `end` that are not in it, in order; those that come in meanwhile may be left out."""
        for start in range(0, end, 8):
            place = start >> 3
            if place < len(self._bits) and self._bits[place] == 0xFF:
                continue
            yield from (index for index in item_range(start, min(start + 8, end)) if index not in self)
