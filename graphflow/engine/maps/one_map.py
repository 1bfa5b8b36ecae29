"""One visit of a map node while it is driven: its items, the generator that they come from, the fold of their results.

It begins when its source has been read, or when the run was loaded with it; its items can run as soon as what opened it
is stored.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from functools import partial

from graphflow.engine.attempt import Body
from graphflow.engine.drive import Drive
from graphflow.engine.maps.feed import Feed
from graphflow.engine.maps.items import MapItems
from graphflow.engine.maps.reducer import Reducer
from graphflow.ids import ItemNumber, NodeNumber
from graphflow.inputs import ItemOutcomes, ItemsStored
from graphflow.planning.plan import PlanNode
from graphflow.rules.pages import has_room
from graphflow.run import MapState


class OneMap:
    """A visit of `node`, whose items run in `body`."""

    def __init__(self, drive: Drive, node: PlanNode, visit: int, body: Body) -> None:
        self.node = node
        self.visit = visit
        #: The generator from which more items come.
        self.feed: Feed | None = None
        #: None until what opens the map is stored.
        self.items: MapItems | None = None
        #: The fold of its results, if they are reduced.
        self.reducer: Reducer | None = None
        self._drive = drive
        self._body = body
        #: Items that the commit under way stores: they can run when it is stored. None if there are none.
        self._unstored: list[tuple[ItemNumber, str]] | None = None
        #: It is opened with what is in the store already, so that not all texts are at hand.
        self._is_in_store = False
        #: Results that the commit under way stores, of a map that an expression reads or that is reduced.
        self._unstored_results: list[tuple[ItemNumber, str]] = []

    @property
    def state(self) -> MapState:
        return self._drive.run.maps[self.node.index]

    # Folded, then stored

    def opens(self, items: Sequence[tuple[ItemNumber, str]]) -> None:
        """That it opens with these items was folded; a map that goes through another one has no texts of its own."""
        self._unstored = [*items]
        self._is_in_store = not (items and items[0][1])

    def add(self, items: Sequence[tuple[ItemNumber, str]]) -> None:
        """Another page of items was folded."""
        self._unstored = [*(self._unstored or ()), *items]
        if self.items is not None:
            self.items.awaits_page = True

    def add_results(self, done: Sequence[tuple[ItemNumber, str]]) -> None:
        """Records that were folded."""
        if self._drive.plan.maps_in_expressions >> self.node.index & 1 or self.node.is_reduced:
            self._unstored_results += done

    def stored(self) -> bool:
        """What was folded is stored now. Whether there are new results to fold."""
        fresh, self._unstored = self._unstored, None
        results, self._unstored_results = self._unstored_results, []
        if self.items is None:
            self.open(() if self._is_in_store else fresh or ())
        elif fresh is not None:
            self.items.add(fresh)
        if self.reducer is not None:
            self.reducer.keep(results)
        return bool(results)

    def open(self, fresh: Sequence[tuple[ItemNumber, str]] = ()) -> None:
        """Its items can run, those in `fresh` with the texts given, the others with those in the store."""
        waits = self._drive.run.waits
        waiting = {place.item for place in waits if place.node == self.node.index and place.item is not None}
        self.items = MapItems(self._body, self.state, waiting, fresh)
        if self.node.map is not None and self.node.map.reduce is not None:
            read = partial(self._drive.store.result_pages, self._drive.run.id, self.node.name)
            self.reducer = Reducer(self.node.name, self.node.map.reduce, self.state, read)

    @property
    def is_whole(self) -> bool:
        """Every item has its record, and no more will come."""
        return not self.state.unfinished and not self.state.has_more

    async def follow_results(self) -> ItemOutcomes | None:
        """Fold the results that are stored; the failure of the fold, if it fails before its end. StoreError."""
        reducer = self.reducer
        if reducer is None:
            return None
        await reducer.follow(lambda: (index for index, _ in self._unstored_results))
        if reducer.failure is None or reducer.is_ending:
            return None
        return ItemOutcomes(self.node.index, self.visit, reduce_failure=reducer.failure)

    # Pages of a generator

    @property
    def has_page(self) -> bool:
        """The generator has yielded something, and there is room for it."""
        return (
            self.feed is not None
            and self.feed.has_news
            and self._unstored is None
            and has_room(
                self._drive.plan, self._drive.run.active, self.node.index, self._drive.run.unfinished
            )
        )

    async def page(self) -> ItemsStored:
        """What the generator has yielded, to be folded; with the last of it, what the map comes to if all is done."""
        assert self.feed is not None
        page = self.feed.page()
        if self.feed.is_over:
            self.feed = None
        if not page.has_more and not page.items and not self.state.unfinished:
            page.results = await self._results(())
        if self.reducer is not None:
            page.reduce_failure = self.reducer.failure
        return page

    # Outcomes of items

    async def completed(self, outcome: ItemOutcomes) -> ItemOutcomes:
        """The outcome; with the last item it holds what the map comes to, if an expression is going to read that or it is
        reduced."""
        is_last = len(self.state.unfinished) == len(outcome.done) + len(outcome.failed)
        if is_last and not self.state.has_more:
            outcome.results = await self._results(outcome.done)
        if self.reducer is not None:
            outcome.reduce_failure = self.reducer.failure
        return outcome

    def parked(self) -> None:
        """An outcome that may have been the last one has to wait, and may come to something else."""
        if self.reducer is not None and self.reducer.is_ending:
            self.reducer.begin_anew()

    async def _results(self, last: Sequence[tuple[ItemNumber, str]]) -> str | None:
        """What the map comes to as JSON text: from the stored records and those that are about to be stored."""
        if self.reducer is not None:
            return await self.reducer.result([*self._unstored_results, *last])
        if not self._drive.plan.maps_in_expressions >> self.node.index & 1:
            return None
        pages = self._drive.store.result_pages(self._drive.run.id, self.node.name)
        records = [record async for page in pages for record in page]
        unstored = sorted([*self._unstored_results, *last])
        return f"[{','.join(text for _, text in heapq.merge(records, unstored))}]"


def open_items(maps: Mapping[NodeNumber, OneMap]) -> list[MapItems]:
    """The items of all maps whose items can run."""
    return [one.items for one in maps.values() if one.items is not None]
