"""Starts the items of maps in free slots, a burst at a time, and reads the texts of those that are in the store alone.

The event loop gets a turn between two bursts, so that items which compute before they first wait do not hold it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import islice

from graphflow.clock import thread_time
from graphflow.engine.committer import Committer
from graphflow.engine.drive import Drive
from graphflow.engine.line import Line
from graphflow.engine.maps.items import MapItems
from graphflow.engine.maps.one_map import OneMap, open_items
from graphflow.engine.slots import Slots
from graphflow.errors import CorruptState
from graphflow.ids import NodeNumber
from graphflow.planning.plan import lender_of

#: Items started before the loop gets a turn: at first, and at most.
FIRST_BURST_ITEMS = 16
BURST_ITEMS = 64
#: Seconds of the processor that one turn of the loop should take for the items that start with it.
BURST_SECONDS = 0.01


class Refill:
    """Fills the slots of one run with items of `maps`, those under way by the numbers of their nodes."""

    def __init__(
        self,
        drive: Drive,
        line: Line,
        slots: Slots,
        committer: Committer,
        maps: Mapping[NodeNumber, OneMap],
    ) -> None:
        self._drive = drive
        self._line = line
        self._slots = slots
        self._committer = committer
        self._maps = maps
        #: The refill that was asked for and has not come.
        self._due: asyncio.Handle | None = None
        #: Items that may start at a time, and how many of them the last refill has started when the clock stood so.
        self._burst = FIRST_BURST_ITEMS
        self._started = 0
        self._clock = 0.0

    @property
    def is_due(self) -> bool:
        return self._due is not None

    def in_flight(self, items: MapItems) -> int:
        """How many attempts are under way, with those that start next: for them there is a slot, and no commit may come
        that could tell of them."""
        node, running = items.node, self._slots.running(items.node.index)
        if self._drive.is_paused or self._line.items_to_run(node) is not None:
            return running
        room = self._slots.room_for_items(node.index, node.config.max_concurrency)
        return running + max(0, min(room, items.startable_count))

    def soon(self) -> None:
        if self._due is None:
            self._due = self._drive.loop.call_soon(self._refill, context=self._drive.context)

    def _refill(self) -> None:
        """Start items in free slots, a burst at a time; the rest when the loop has had a turn, and all of these theirs."""
        self._due = None
        self._measure()
        if self._drive.is_paused:
            return
        for items in open_items(self._maps):
            if items.needs_page:
                self._load_page(items)
            self._start_items(items)
            if items.needs_page:
                # What has just been started has made room.
                self._load_page(items)
        if self._started >= self._burst:
            self.soon()
        elif not self._started:
            self._drive.look_again()

    def _start_items(self, items: MapItems) -> None:
        node, slots = items.node, self._slots
        room = slots.room_for_items(node.index, node.config.max_concurrency)
        startable = items.startable(self._line.may_start, self._line.items_to_run(node))
        for attempt in islice(startable, max(0, min(room, self._burst - self._started))):
            self._started += 1
            slots.take(attempt)
            if (body := items.delegated) is None:
                slots.launch(attempt)
            else:
                indexes = attempt.batch or attempt.index
                slots.delegate(attempt, body.executor, body.call.run, attempt.text, indexes)

    def _measure(self) -> None:
        """Fit the burst to what an item takes of the processor before it first waits."""
        clock = thread_time()
        if self._started:
            spent = (clock - self._clock) / self._started
            self._burst = max(1, min(BURST_ITEMS, int(BURST_SECONDS / max(spent, 1e-6))))
        self._started, self._clock = 0, clock

    def _load_page(self, items: MapItems) -> None:
        items.is_loading = True
        self._drive.start(self._read_page(items))

    async def _read_page(self, items: MapItems) -> None:
        indexes = items.next_page()
        node = items.node
        try:
            lender = lender_of(node, self._drive.run.maps[node.index].borrowed)
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
        self.soon()
