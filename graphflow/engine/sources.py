"""Where do the items of a map come from: a state key, the result of a node, or a generator that goes on yielding.

A list is read whole, in one transaction. From a generator elements are taken ahead of the map, as many as there is room
for: what has gathered while a page was being stored is the next page, and a slow consumer slows the generator. After a
crash the generator is run again, and the elements that are stored are left out: by itself, if it has a parameter
`start`, else by count.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphflow.caches.operations import value_text
from graphflow.caches.transaction import Transaction
from graphflow.codec import decode, encode
from graphflow.engine.attempt import Attempt, argument, failure_from
from graphflow.engine.plan import PlanGenerator, PlanNode, Source
from graphflow.engine.tasks import start_task
from graphflow.engine.teardown import GRACE_SECONDS, STOP_SECONDS, tear_down
from graphflow.executors.inline import InlineExecutor
from graphflow.expressions import Expression
from graphflow.run import Failure, ItemsStored

if TYPE_CHECKING:
    from graphflow.engine.mirror import Mirror

logger = logging.getLogger(__name__)

#: Elements and bytes that wait to be taken by the map before the generator is held.
AHEAD_ITEMS = 1_000
AHEAD_BYTES = 1_000_000
#: Elements after which a generator that never waits gives the loop a turn.
TURN_ITEMS = 64
#: Elements, and seconds, after which a thread that runs a sync generator hands over what it has.
CHUNK_ITEMS = 256
CHUNK_SECONDS = 0.02

#: Whether an element, at its place in the source, becomes an item.
Filter = Callable[[Any, int], bool]


async def read_source(
    attempt: Attempt,
    mirror: Mirror,
    semaphore: asyncio.Semaphore,
    executor: InlineExecutor,
    context: contextvars.Context,
) -> ItemsStored:
    """All items of a map node, or the first page of what its generator yields; then `attempt.feed` has the rest."""
    node, transaction = attempt.node, attempt.transaction
    assert node.map is not None
    assert transaction is not None
    keeps = _filter(node, transaction, mirror)
    start = mirror.taken_from_source(node.index, attempt.visit)
    if node.map.over_map:
        transaction.note_node_read(node.map.source)
        if node.map.pipelined and mirror.is_streaming(node):
            borrowed = mirror.borrowed_visit(node)
            return ItemsStored(node.index, attempt.visit, [], has_more=True, borrowed=borrowed, follows=True)
        elements: AsyncGenerator[Any, None] = _records(node, mirror, start)
    elif node.map.generator is None:
        items = await _read_list(node, transaction, keeps)
        return ItemsStored(node.index, attempt.visit, items)
    else:
        arguments = {
            binding.parameter: await argument(binding, transaction, semaphore)
            for binding in node.map.generator.bindings
            if binding.source not in (Source.DEFAULT, Source.START)
        }
        elements = _elements(node.map.generator, arguments, start, executor)
    return await _begin_feed(attempt, Feed(attempt, start, keeps, mirror), elements, context)


async def _begin_feed(
    attempt: Attempt, feed: Feed, elements: AsyncGenerator[Any, None], context: contextvars.Context
) -> ItemsStored:
    feed.begin(elements, context)
    try:
        await feed.wait_news()
    except BaseException:
        feed.close()
        await feed.wait_closed()
        raise
    attempt.feed = feed
    return feed.page()


async def _records(node: PlanNode, mirror: Mirror, start: int) -> AsyncGenerator[tuple[int, str], None]:
    """The records of the map that is gone through, from index `start` on."""
    assert node.map is not None
    if mirror.has_map_results(node.map.source):
        async for page in mirror.map_pages(node.map.source, start):
            for record in page:
                yield record


async def _read_list(node: PlanNode, transaction: Transaction, keeps: Filter) -> list[tuple[int, str]]:
    assert node.map is not None
    name = node.map.source
    if node.map.source_node is not None:
        source = await transaction.node_result(name, None)
        if source is None:
            source = []
    else:
        source = await transaction.get(name)
    if isinstance(source, str | bytes | dict) or not isinstance(source, Iterable):
        raise TypeError(f"map_over={name!r} holds {type(source).__name__}, not a list of items")
    return [(index, encode(item, name)) for index, item in enumerate(source) if keeps(item, index)]


def _filter(node: PlanNode, transaction: Transaction, mirror: Mirror) -> Filter:
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


class Feed:
    """A generator at work: what it has yielded waits here, as texts, until the map takes it as a page."""

    def __init__(self, attempt: Attempt, start: int, keeps: Filter, mirror: Mirror) -> None:
        self.node = attempt.node
        self.visit = attempt.visit
        #: Called when there is something to take.
        self.on_news: Callable[[], None] = lambda: None
        #: Elements that the generator yields once more and that are stored already.
        generator = attempt.node.map.generator if attempt.node.map is not None else None
        self._left_out = start if generator is not None and not generator.seeks else 0
        self._is_over_map = attempt.node.map is not None and attempt.node.map.over_map
        self._borrowed = mirror.borrowed_visit(attempt.node)
        self._keeps = keeps
        #: Elements that the pages so far hold, and those that the generator has yielded.
        self._paged = self._taken = start
        self._items: list[tuple[int, str]] = []
        self._size = 0
        self._has_ended = False
        self._failure: Failure | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._timeout = attempt.timeout
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

    def page(self) -> ItemsStored:
        """What has gathered since the last page. A failure of the generator comes after all that it has yielded."""
        start, self._paged = self._paged, self._taken
        items, self._items, self._size = self._items, [], 0
        page = ItemsStored(
            self.node.index, self.visit, items, start=start, span=self._paged, borrowed=self._borrowed
        )
        page.has_more = not self._has_ended or self._failure is not None
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
        try:
            async for element in elements:
                if self._is_overdue:
                    # It took the cancellation for itself; what it yields comes too late all the same.
                    break
                if self._left_out:
                    self._left_out -= 1
                    self._last = self._loop.time()
                    if not self._left_out % TURN_ITEMS:
                        await asyncio.sleep(0)
                    continue
                self._add(element)
                if self._is_full:
                    self._room.clear()
                    await self._room.wait()
                    self._last = self._loop.time()
                elif not self._taken % TURN_ITEMS:
                    await asyncio.sleep(0)
        except BaseException as error:
            self._failure = failure_from(error)
        finally:
            self._end()
            # A generator that cannot be closed has nothing more to say.
            with suppress(Exception):
                await elements.aclose()

    def _add(self, element: Any) -> None:
        """Of a map an element is the record of an item, whose index stays."""
        if self._is_over_map:
            index, text = element
            keeps = bool(self._borrowed) or self._keeps(decode(text, self.node.name), index)
        else:
            index, text = self._taken, ""
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
        if self._is_overdue:
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
        return len(self._items) >= AHEAD_ITEMS or self._size >= AHEAD_BYTES

    def _overdue_failure(self) -> Failure:
        source = self.node.map.source if self.node.map is not None else ""
        return Failure("ModuleTimeout", f"{source} yielded nothing within timeout={self._timeout:g} s")


# Generators


def _elements(
    generator: PlanGenerator, arguments: dict[str, Any], start: int, executor: InlineExecutor
) -> AsyncGenerator[Any, None]:
    if generator.seeks:
        arguments["start"] = start
    elements: Any = generator.function(**arguments)
    return elements if generator.is_async else _from_threads(elements, executor)


@dataclass(slots=True)
class _Chunk:
    elements: list[Any]
    error: BaseException | None = None
    is_last: bool = False


async def _from_threads(
    generator: Generator[Any, None, None], executor: InlineExecutor
) -> AsyncGenerator[Any, None]:
    """What a sync generator yields. It runs in a thread, for a chunk of elements at a time."""
    chunk = _Chunk([])
    try:
        while not chunk.is_last:
            chunk = await executor.execute(_next_chunk, generator)
            for element in chunk.elements:
                yield element
            if chunk.error is not None:
                raise chunk.error
    finally:
        # While a thread is still in it, it cannot be closed.
        with suppress(ValueError):
            generator.close()


def _next_chunk(generator: Generator[Any, None, None]) -> _Chunk:
    chunk = _Chunk([])
    end = time.monotonic() + CHUNK_SECONDS
    try:
        for element in generator:
            chunk.elements.append(element)
            if len(chunk.elements) >= CHUNK_ITEMS or time.monotonic() >= end:
                return chunk
    except BaseException as error:
        chunk.error = error
    chunk.is_last = True
    return chunk
