"""The items of one map node's visit: which wait, which are in flight, which are finished but not yet committed.

The run's mirror knows only counters and unfinished indexes. Item texts are handed over when they have just been stored,
as far as there is room, and else come from the store page by page, so that a map of any size is driven with a bounded
number of items, and of characters, in memory.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from graphflow.engine.attempt import Attempt, Body
from graphflow.engine.maps.plain import PlainBody
from graphflow.engine.maps.stragglers import Durations
from graphflow.ids import ItemNumber
from graphflow.inputs import ItemOutcomes, Pace
from graphflow.run import Failure, MapState

#: Items, and characters of items, that wait in memory.
QUEUE_ITEMS = 2_000
QUEUE_SIZE = 4_000_000
#: Items read from the store at a time: at first so many, then as many as fit into the characters of a page.
FIRST_PAGE_ITEMS = 50
PAGE_ITEMS = 1_000
PAGE_SIZE = 1_000_000
#: Finished items, and characters of their results, that may wait for their commit before no more are started.
MAX_UNCOMMITTED = 2_000
MAX_UNCOMMITTED_SIZE = 8_000_000
#: Finished items in one commit.
BATCH_ITEMS = 500
#: Characters of finished items' results in one commit.
BATCH_SIZE = 1_000_000


class MapItems:
    """The items of one visit of a map node on their way through this process."""

    def __init__(
        self,
        body: Body,
        state: MapState,
        waiting: Collection[ItemNumber] = (),
        fresh: Sequence[tuple[ItemNumber, str]] = (),
    ) -> None:
        """`waiting` are the items that wait for a signal, `fresh` the texts of items that have just been stored."""
        assert body.node.map is not None
        self.node = body.node
        self.visit = state.visit
        self.is_loading = False
        #: More items of a generator are about to be stored.
        self.awaits_page = False
        self._body = body
        self._state = state
        self._batch_size = body.node.map.batch_size
        #: No item takes a ticket.
        self._is_plain = isinstance(body, PlainBody)
        #: The body of items that an executor does as a whole; None where each is a task.
        self.delegated = body if isinstance(body, PlainBody) and body.is_delegated else None
        self._durations = Durations()
        self._retried = 0
        self._queue: deque[tuple[ItemNumber, str]] = deque()
        self._queue_size = 0
        #: Attempts that run again, and those that their ticket does not let start yet.
        self._waiting: dict[Attempt, None] = {}
        #: The one of them that came from the queue. Those behind it would get younger tickets for the same keys, so that
        #: none of them may start before it.
        self._head: Attempt | None = None
        #: Indexes of items whose texts are in the store alone.
        self._pending: deque[ItemNumber] = deque()
        self._page_items = FIRST_PAGE_ITEMS
        #: Failed attempts of the items that are tried again.
        self._failed_attempts: dict[ItemNumber, int] = {}
        #: Items that have ended and wait for their commit: with their results, or with failures and attempts.
        self._done: deque[tuple[ItemNumber, str]] = deque()
        self._failed: list[tuple[ItemNumber, Failure, int]] = []
        self._done_size = 0
        if fresh:
            self.add(fresh)
        else:
            # Those with the most crashes first: nothing else may run before they have.
            left = state.unfinished.difference(waiting)
            self._pending.extend(sorted(left, key=lambda index: (-state.crashes.get(index, 0), index)))

    # Items arrive

    def add(self, items: Sequence[tuple[ItemNumber, str]]) -> None:
        """Items that have just been stored. What does not fit is read again later."""
        self.awaits_page = False
        for place, (index, text) in enumerate(items):
            if self._pending or len(self._queue) >= QUEUE_ITEMS or self._queue_size >= QUEUE_SIZE:
                self._pending.extend(index for index, _ in items[place:])
                return
            self._queue.append((index, text))
            self._queue_size += len(text)

    @property
    def has_waiting(self) -> bool:
        """Some of them could start if they were let."""
        return bool(self._waiting or self._queue or self._pending)

    @property
    def needs_page(self) -> bool:
        if not self._pending or self.is_loading:
            return False
        has_room = len(self._queue) < QUEUE_ITEMS // 2 and self._queue_size < QUEUE_SIZE // 2
        # A batch may be larger than what otherwise waits.
        return has_room or not self._batches

    def next_page(self) -> list[ItemNumber]:
        return [self._pending.popleft() for _ in range(min(self._page_items, len(self._pending)))]

    def add_page(self, indexes: Sequence[ItemNumber], texts: Sequence[str]) -> None:
        """Items that were read from the store."""
        size = sum(map(len, texts))
        self._queue.extend(zip(indexes, texts, strict=True))
        self._queue_size += size
        self._page_items = max(1, min(PAGE_ITEMS, PAGE_SIZE * len(texts) // max(1, size)))

    def wake(self, index: ItemNumber) -> None:
        """What the item waited for is there: it runs again, before the others."""
        self._pending.appendleft(index)

    # Items start

    def startable(
        self, may_start: Callable[[Attempt], bool], wanted: Collection[ItemNumber] | None = None
    ) -> Iterator[Attempt]:
        """The attempts that may start now, one at a time.

        All that wait are asked, the oldest ticket first, before the queue is: a younger ticket may be waiting for an
        older one. `wanted` are the indexes of those that alone may run.
        """
        if self._holds_enough:
            return
        for attempt in self.waiting:
            is_wanted = wanted is None or any(index in wanted for index in attempt.indexes)
            if is_wanted and (self._is_plain or may_start(attempt)):
                del self._waiting[attempt]
                yield attempt
        while (fresh := self._next(wanted)) is not None:
            if self._is_plain or may_start(fresh):
                yield fresh
            else:
                self._waiting[fresh] = None
                self._head = fresh

    @property
    def startable_count(self) -> int:
        """How many attempts `startable` has if all that it asks may start; none while the head of the queue waits for its ticket."""
        if self._holds_enough or self._head in self._waiting:
            return 0
        return len(self._waiting) + self._batches

    @property
    def _holds_enough(self) -> bool:
        """As many have ended and wait for their commit as may."""
        ended = len(self._done) + len(self._failed)
        return ended >= MAX_UNCOMMITTED or self._done_size >= MAX_UNCOMMITTED_SIZE

    @property
    def _batches(self) -> int:
        """How many attempts the items in the queue make: of the last batch, none before it is whole."""
        if self._batch_size is None:
            return len(self._queue)
        whole, rest = divmod(len(self._queue), self._batch_size)
        return whole + (rest > 0 and not self._is_filling)

    @property
    def _is_filling(self) -> bool:
        """Whether more will come into the queue."""
        return bool(self._pending) or self.is_loading or self.awaits_page or self._state.has_more

    def _next(self, wanted: Collection[ItemNumber] | None) -> Attempt | None:
        """The next attempt from the queue, if one may be asked."""
        if wanted is not None:
            return self._next_among(wanted)
        if self._head in self._waiting or not self._batches:
            return None
        if self._batch_size is None:
            return self._single(*self._pop())
        return self._batch([self._pop() for _ in range(min(self._batch_size, len(self._queue)))])

    def _next_among(self, wanted: Collection[ItemNumber]) -> Attempt | None:
        """Alone, also where items go in batches."""
        for place, (index, text) in enumerate(self._queue):
            if index in wanted:
                del self._queue[place]
                self._queue_size -= len(text)
                return self._single(index, text) if self._batch_size is None else self._batch([(index, text)])
        return None

    def _pop(self) -> tuple[ItemNumber, str]:
        item = self._queue.popleft()
        self._queue_size -= len(item[1])
        return item

    def _single(self, index: ItemNumber, text: str) -> Attempt:
        return Attempt(self._body, self.visit, index, text)

    def _batch(self, items: Sequence[tuple[ItemNumber, str]]) -> Attempt:
        texts = ",".join(text for _, text in items)
        indexes = tuple(index for index, _ in items)
        return Attempt(self._body, self.visit, indexes[0], f"[{texts}]", indexes)

    def note_time(self, attempt: Attempt) -> None:
        """It is over, and has taken its time."""
        if attempt.index is not None:
            self._durations.note(attempt.index, attempt.seconds)

    def put_back(self, attempt: Attempt) -> None:
        """An attempt that is to run again, before what is in the queue."""
        self._waiting[attempt] = None

    @property
    def waiting(self) -> list[Attempt]:
        """The attempts that have been put back or asked in vain, in the order in which they start."""
        return sorted(self._waiting, key=_position)

    def take_line(self) -> list[Attempt]:
        """The attempts that have not started, of those that may have a ticket."""
        line = self.waiting
        self._waiting.clear()
        self._queue.clear()
        return line

    # Items end

    def succeeded(self, index: ItemNumber, text: str) -> None:
        if self._failed_attempts:
            self._failed_attempts.pop(index, None)
        self._done.append((index, text))
        self._done_size += len(text)

    def failed(self, indexes: Iterable[ItemNumber], failure: Failure) -> int | None:
        """Count a failed attempt of an item or a batch: how many it has had if it is to be tried again, None if it
        failed for good."""
        indexes = tuple(indexes)
        attempts = self._failed_attempts.get(indexes[0], 0) + 1
        if failure.retryable and attempts < self.node.config.attempts:
            self._failed_attempts[indexes[0]] = attempts
            self._retried += len(indexes)
            return attempts
        self._failed_attempts.pop(indexes[0], None)
        self._failed += [(index, failure, attempts) for index in indexes]
        return None

    @property
    def has_finished(self) -> bool:
        return bool(self._done or self._failed)

    def take_finished(self, in_flight: int) -> ItemOutcomes:
        """The next outcomes for a commit, cut by count and by size; so many items are under way."""
        failed, self._failed = self._failed[:BATCH_ITEMS], self._failed[BATCH_ITEMS:]
        done = self._take_done(BATCH_ITEMS - len(failed))
        retried, self._retried = self._retried, 0
        return ItemOutcomes(
            self.node.index, self.visit, done, failed, retried=retried, pace=self.pace(in_flight)
        )

    def _take_done(self, count: int) -> list[tuple[ItemNumber, str]]:
        done: list[tuple[ItemNumber, str]] = []
        size = 0
        while self._done and len(done) < count and size < BATCH_SIZE:
            item = self._done.popleft()
            size += len(item[1])
            done.append(item)
        self._done_size -= size
        return done

    @property
    def retried(self) -> int:
        """Items that are tried again, and of which no outcome has told yet."""
        return self._retried

    def told_of_retries(self, count: int) -> None:
        self._retried -= count

    def pace(self, in_flight: int) -> Pace:
        return Pace(in_flight, self._durations.median, self._durations.report())


def _position(attempt: Attempt) -> float:
    """Its place in the line; who has no ticket is younger than all."""
    return attempt.ticket.position if attempt.ticket is not None else math.inf
