"""The items of one map node's visit: which wait, which are in flight, which are finished but not yet committed.

The run's mirror knows only counters and unfinished indexes. Item texts come from the store page by page, so that a map
of any size is driven with a bounded number of items in memory.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable
from typing import TYPE_CHECKING, Any

from graphflow.codec import encode
from graphflow.engine.attempt import Attempt
from graphflow.engine.plan import PlanNode
from graphflow.expressions import Expression
from graphflow.run import Failure, ItemOutcomes, MapState

if TYPE_CHECKING:
    from graphflow.caches.transaction import Transaction
    from graphflow.engine.mirror import Mirror

#: Items read from the store at a time.
PAGE_ITEMS = 1_000
#: Finished items that may wait for their commit before no more are started.
MAX_UNCOMMITTED = 2_000
#: Finished items in one commit.
BATCH_ITEMS = 500
#: Bytes of finished items' results in one commit.
BATCH_BYTES = 1_000_000


class MapItems:
    """The items of one visit of a map node on their way through this process."""

    def __init__(self, node: PlanNode, state: MapState, waiting: Collection[int] = ()) -> None:
        """`waiting` are the items that wait for a signal."""
        self.node = node
        self.visit = state.visit
        self.is_loading = False
        self._in_flight = 0
        self._retried = 0
        # Those with the most crashes first: nothing else may run before they have.
        self._pending = deque(
            sorted(
                state.unfinished.difference(waiting), key=lambda index: (-state.crashes.get(index, 0), index)
            )
        )
        self._queue: deque[Attempt] = deque()
        #: Failed attempts of the items that are tried again.
        self._failed_attempts: dict[int, int] = {}
        self._finished: deque[tuple[int, str | Failure, int]] = deque()

    @property
    def needs_page(self) -> bool:
        return bool(self._pending) and not self.is_loading and len(self._queue) < PAGE_ITEMS // 2

    def next_page(self) -> list[int]:
        return [self._pending.popleft() for _ in range(min(PAGE_ITEMS, len(self._pending)))]

    def add_page(self, indexes: list[int], texts: list[str]) -> None:
        for index, text in zip(indexes, texts, strict=True):
            self._queue.append(Attempt(self.node, 0, self.visit, index, text))

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def may_start(self) -> bool:
        return bool(self._queue) and self.has_room and len(self._finished) < MAX_UNCOMMITTED

    def take(self) -> Attempt:
        """The next item; it counts as in flight until `ended` or `postpone`."""
        self._in_flight += 1
        return self._queue.popleft()

    def take_among(self, indexes: Collection[int]) -> Attempt | None:
        """The first of these items that is waiting, if one is."""
        for place, attempt in enumerate(self._queue):
            if attempt.index in indexes:
                del self._queue[place]
                self._in_flight += 1
                return attempt
        return None

    def wake(self, index: int) -> None:
        """What the item waited for is there: it runs again, before the others."""
        self._pending.appendleft(index)

    @property
    def has_room(self) -> bool:
        """Whether one more may be in flight."""
        limit = self.node.config.max_concurrency
        return limit is None or self._in_flight < limit

    def came_back(self) -> None:
        """One that had waited for a message is in flight again."""
        self._in_flight += 1

    def postpone(self, attempt: Attempt) -> None:
        """It was taken but has to wait: others go first."""
        self._in_flight -= 1
        self._queue.append(attempt)

    def ended(self) -> None:
        self._in_flight -= 1

    def put_back(self, attempt: Attempt) -> None:
        """An item that is to run again, before the others."""
        self._queue.appendleft(attempt)

    def take_queue(self) -> list[Attempt]:
        """The items that have not started."""
        queue, self._queue = self._queue, deque()
        return list(queue)

    def succeeded(self, index: int, text: str) -> None:
        self._failed_attempts.pop(index, None)
        self._finished.append((index, text, 0))

    def failed(self, index: int, failure: Failure) -> int | None:
        """Count a failed attempt: how many the item has had if it is to be tried again, None if it failed for good."""
        attempts = self._failed_attempts.pop(index, 0) + 1
        if not failure.retryable or attempts >= self.node.config.attempts:
            self._finished.append((index, failure, attempts))
            return None
        self._failed_attempts[index] = attempts
        self._retried += 1
        return attempts

    @property
    def has_finished(self) -> bool:
        return bool(self._finished)

    def take_finished(self) -> ItemOutcomes:
        """The next batch for a commit, cut by count and by bytes."""
        outcome = ItemOutcomes(self.node.index, self.visit, retried=self._retried)
        self._retried = 0
        size = 0
        while self._finished and len(outcome.done) + len(outcome.failed) < BATCH_ITEMS and size < BATCH_BYTES:
            index, result, attempts = self._finished.popleft()
            if isinstance(result, str):
                size += len(result)
                outcome.done.append((index, result))
            else:
                outcome.failed.append((index, result, attempts))
        return outcome


async def read_items(node: PlanNode, transaction: Transaction, mirror: Mirror) -> list[tuple[int, str]]:
    """The items of a map node's source as (index, text), those that `where` leaves out left out."""
    assert node.map is not None
    if node.map.source_node is not None:
        source = await transaction.node_result(node.map.source, None)
        if source is None:
            source = []
    else:
        source = await transaction.get(node.map.source)
    if isinstance(source, str | bytes | dict) or not isinstance(source, Iterable):
        raise TypeError(f"map_over={node.map.source!r} holds {type(source).__name__}, not a list of items")
    keeps = _filter(node, transaction, mirror)
    return [
        (index, encode(item, f"{node.map.source}[{index}]"))
        for index, item in enumerate(source)
        if keeps(item, index)
    ]


def _filter(node: PlanNode, transaction: Transaction, mirror: Mirror) -> Any:
    where = node.map.where if node.map is not None else None
    if where is None:
        return lambda item, index: True
    if not isinstance(where, Expression):
        return lambda item, index: bool(where(item))
    for name in where.names:
        transaction.note_read(name)
        if mirror.is_node(name):
            transaction.note_node_read(name)
    for name in where.node_names:
        transaction.note_node_read(name)
    draft = mirror.draft()
    return lambda item, index: draft.holds_for(where, item, index)


async def merged_results(stored: AsyncIterator[tuple[int, str]], last: list[tuple[int, str]]) -> str:
    """All results of a map as JSON text: the stored records with those of the batch that is about to be stored."""
    records = [record async for record in stored]
    return f"[{','.join(text for _, text in heapq.merge(records, sorted(last)))}]"
