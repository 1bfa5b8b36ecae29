"""Folds the results of a map into one value while the map runs: in input order, each result once.

Nothing of the value is stored before the map ends: every result has its record, so that after a crash the fold begins
anew from the records. It follows the front of the map, the first item without a record; results beyond it wait here as
far as there is room, and are else read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import Any, Final

from graphflow.codec import decode
from graphflow.engine.failures import failure_from
from graphflow.graph.functions import no_answer
from graphflow.ids import ItemNumber, enumerate_items, item_range
from graphflow.run import Failure, MapState
from graphflow.values import value_text

#: Results beyond the front that are kept, and characters of them.
KEPT_ITEMS = 2_000
KEPT_SIZE = 4_000_000
#: Results that are folded before the loop gets a turn.
TURN_ITEMS = 500

_NOTHING: Final = object()

#: (index, text) of the stored results from one index up to another, by the page.
ReadRecords = Callable[[int, int], AsyncIterator[list[tuple[ItemNumber, str]]]]


class Reducer:
    """The fold of one visit's results. `read` reads records that were committed."""

    def __init__(
        self, name: str, function: Callable[[Any, Any], Any], state: MapState, read: ReadRecords
    ) -> None:
        #: Why there will be no value.
        self.failure: Failure | None = None
        #: The last results are being folded: an outcome that is about to be folded says what they come to.
        self.is_ending = False
        self._name = name
        self._function = function
        self._state = state
        self._read = read
        self._value: Any = _NOTHING
        #: Everything before it is in the value.
        self._front = 0
        #: Texts of results at or beyond the front.
        self._kept: dict[ItemNumber, str] = {}
        self._kept_size = 0
        self._turn = asyncio.Lock()

    def keep(self, done: Iterable[tuple[ItemNumber, str]]) -> None:
        """Results that are stored now."""
        for index, text in done:
            if len(self._kept) >= KEPT_ITEMS or self._kept_size >= KEPT_SIZE:
                return
            self._kept[index] = text
            self._kept_size += len(text)

    async def follow(self, unstored: Callable[[], Iterable[ItemNumber]]) -> None:
        """Fold all that is stored before the first item without a record. StoreError.

        `unstored` are the items whose records the commit under way stores: the run counts them as done already.
        """
        if self._turn.locked():
            return
        while self.failure is None and (front := self._next_front(frozenset(unstored()))) > self._front:
            await self._fold_to(front)

    def begin_anew(self) -> None:
        """One of the last results is going to be another: fold all of them from their records once more."""
        self.failure, self.is_ending = None, False
        self._value, self._front = _NOTHING, 0
        self._kept, self._kept_size = {}, 0

    async def result(self, last: Iterable[tuple[ItemNumber, str]]) -> str | None:
        """The text of the value over all results, with the last ones, which are about to be stored; `null` if there are
        none. None if there is a failure. StoreError."""
        self.is_ending = True
        for index, text in last:
            self._kept[index] = text
            self._kept_size += len(text)
        await self._fold_to(self._state.span)
        if self.failure is not None:
            return None
        try:
            return value_text(self._name, None if self._value is _NOTHING else self._value)
        except BaseException as error:
            # Called without await: a cancellation, or the end of the process, is what the user's code has raised.
            self.failure = failure_from(error)
            return None

    def _next_front(self, unstored: Collection[ItemNumber]) -> int:
        front, unfinished = self._front, self._state.unfinished
        while front < self._state.span and front not in unfinished and front not in unstored:
            front += 1
        return front

    async def _fold_to(self, end: int) -> None:
        async with self._turn:
            while self._front < end and self.failure is None:
                stop = min(end, self._front + TURN_ITEMS)
                for text in await self._texts(self._front, stop):
                    self._add(text)
                self._front = stop
                await asyncio.sleep(0)

    async def _texts(self, start: int, stop: int) -> list[str]:
        """The results from `start` to `stop`, without items that failed or were left out."""
        kept = [self._kept.pop(index, _NOTHING) for index in item_range(start, stop)]
        found = [text for text in kept if isinstance(text, str)]
        self._kept_size -= sum(map(len, found))
        if _NOTHING not in kept:
            return found
        stored = dict([record async for page in self._read(start, stop) for record in page])
        stored.update((index, text) for index, text in enumerate_items(kept, start) if isinstance(text, str))
        return [stored[index] for index in sorted(stored)]

    def _add(self, text: str) -> None:
        if self.failure is not None:
            return
        try:
            result = decode(text, self._name)
            if self._value is _NOTHING:
                self._value = result
                return
            self._value = value = self._function(self._value, result)
            # inspect.isawaitable takes as long as decoding a small result.
            if hasattr(type(value), "__await__"):
                raise no_answer(value, "reduce")
        except BaseException as error:
            # A result that cannot be read is the node's failure, too, as one is that a parameter asks for.
            self.failure = failure_from(error)
