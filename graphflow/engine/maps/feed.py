"""A generator at work: elements are taken ahead of the map that has its items from it, as many as there is room for.

What has gathered while a page was being stored is the next page, and a slow consumer slows the generator. After a crash
the generator is run again, and the elements that are stored are left out: by itself, if it has a parameter `start`, else
by count. Whether they are the same is seen to in `retrace.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from graphflow.codec import decode
from graphflow.engine.cancellation import GRACE_SECONDS, STOP_SECONDS, tear_down
from graphflow.engine.failures import end_with_process, failure_from, overdue
from graphflow.engine.maps.retrace import Retrace
from graphflow.engine.tasks import start_task
from graphflow.ids import ItemNumber
from graphflow.inputs import ItemsStored
from graphflow.planning.plan import PlanNode
from graphflow.run import Failure
from graphflow.values import texts_digest, value_text

logger = logging.getLogger(__name__)

#: Elements, and characters of their texts, that wait to be taken by the map before the generator is held.
AHEAD_ITEMS = 1_000
AHEAD_SIZE = 1_000_000
#: Elements after which a generator that never waits gives the loop a turn.
TURN_ITEMS = 64

#: Whether an element, at its place in the source, becomes an item.
Filter = Callable[[Any, ItemNumber], bool]


class Feed:
    """A generator at work: what it has yielded waits here, as texts, until the map takes it as a page."""

    def __init__(
        self,
        node: PlanNode,
        visit: int,
        start: int,
        keeps: Filter,
        retrace: Retrace | None,
        *,
        borrowed: int,
        timeout: float,
    ) -> None:
        """From element `start` on, for a visit of a map node. Of a generator `retrace` gets the elements before that;
        what goes through a map has none. `borrowed` is as in `MapState`, `timeout` the seconds that the generator may
        take for one element."""
        self.node = node
        self.visit = visit
        #: Called when there is something to take.
        self.on_news: Callable[[], None] = lambda: None
        self._retrace = retrace
        self._is_over_map = node.map is not None and node.map.over_map
        self._borrowed = borrowed
        self._keeps = keeps
        #: Elements that the pages so far hold, and those that the generator has yielded.
        self._paged = self._taken = start
        self._items: list[tuple[ItemNumber, str]] = []
        self._size = 0
        self._has_ended = False
        self._failure: Failure | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._is_overdue = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, elements: AsyncGenerator[Any, None], context: contextvars.Context) -> None:
        name = f"{self.node.name}: {self.node.map.source if self.node.map else ''}"
        # First: what is drawn may be at its end before the task is known.
        self._timer = self._loop.call_later(self._timeout, self._look, context=context)
        self._task = start_task(self._loop, self._draw(elements), context, name=name)

    @property
    def has_news(self) -> bool:
        return self._news.is_set()

    async def wait_news(self) -> None:
        await self._news.wait()

    @property
    def is_over(self) -> bool:
        """Nothing more will come, and all of it was taken."""
        return self._has_ended and not self._items and self._failure is None

    @property
    def is_at_work(self) -> bool:
        """The generator is asked for its next element, and is not held for want of room."""
        return not self._has_ended and not self._is_full

    def page(self) -> ItemsStored:
        """What has gathered since the last page. A failure of the generator comes after all that it has yielded."""
        start, self._paged = self._paged, self._taken
        items, self._items, self._size = self._items, [], 0
        page = ItemsStored(
            self.node.index, self.visit, items, start=start, span=self._paged, borrowed=self._borrowed
        )
        page.has_more = not self._has_ended or self._failure is not None
        if self._retrace is not None and start < self._paged:
            page.digest = texts_digest([text for _, text in items])
        self._news.clear()
        if self._failure is not None:
            if start == self._paged:
                page.failure, self._failure = self._failure, None
            else:
                self._news.set()
        self._room.set()
        return page

    def close(self) -> None:
        """Nobody will take anything more."""
        if self._task is not None:
            self._task.cancel()

    @property
    def is_closed(self) -> bool:
        """Nothing of the generator runs any more."""
        return self._task is None or self._task.done()

    async def wait_closed(self) -> None:
        """Until it has ended, though not for ever: its body may ignore its cancellation."""
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=STOP_SECONDS)
            for task in late:
                self._leave_behind(task)

    def _leave_behind(self, task: asyncio.Task[None]) -> None:
        logger.warning("%s ignores its cancellation and is left behind", task.get_name())
        tear_down(task)
        self._end()

    async def _draw(self, elements: AsyncGenerator[Any, None]) -> None:
        retrace = self._retrace
        try:
            async for element in elements:
                if self._is_overdue:
                    # It took the cancellation for itself; what it yields comes too late all the same.
                    break
                if retrace is not None and retrace.left:
                    if (changed := retrace.passes(element)) is not None:
                        self._failure = changed
                        return
                    self._last = self._loop.time()
                    if not retrace.left % TURN_ITEMS:
                        await asyncio.sleep(0)
                    continue
                self._add(element)
                if self._is_full:
                    self._room.clear()
                    await self._room.wait()
                    self._last = self._loop.time()
                elif not self._taken % TURN_ITEMS:
                    await asyncio.sleep(0)
            else:
                if retrace is not None and not self._is_overdue:
                    self._failure = retrace.ended()
        except BaseException as error:
            self._failure = self._overdue_failure(error) if self._is_overdue else failure_from(error)
        finally:
            self._end()
            try:
                await elements.aclose()
            except BaseException as error:
                # A generator that cannot be closed has nothing more to say.
                end_with_process(error)

    def _add(self, element: Any) -> None:
        """Of a map an element is the record of an item, whose index stays."""
        if self._is_over_map:
            index, text = element
            keeps = bool(self._borrowed) or self._keeps(decode(text, self.node.name), index)
        else:
            index, text = ItemNumber(self._taken), ""
            keeps = self._keeps(element, index)
        if keeps:
            text = text or value_text(f"{self.node.name}[{index}]", element)
            self._items.append((index, text))
            self._size += len(text)
        self._taken = index + 1
        self._last = self._loop.time()
        if not self._news.is_set() and self._items:
            self._tell()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._has_ended:
            return
        self._has_ended = True
        if self._is_overdue and self._failure is None:
            self._failure = self._overdue_failure()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self.on_news()

    def _look(self) -> None:
        """Whether the generator has been silent for too long; the time in which it is held does not count."""
        left = self._timeout if self._is_full else self._last + self._timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        elif self._task is not None and not self._is_overdue:
            self._is_overdue = True
            self._task.cancel()
            self._timer = self._loop.call_later(GRACE_SECONDS, self._look)
        elif self._task is not None:
            self._leave_behind(self._task)

    @property
    def _is_full(self) -> bool:
        return len(self._items) >= AHEAD_ITEMS or self._size >= AHEAD_SIZE

    def _overdue_failure(self, error: BaseException | None = None) -> Failure:
        source = self.node.map.source if self.node.map is not None else ""
        return overdue(f"{source} yielded nothing within timeout={self._timeout:g} s", error)
