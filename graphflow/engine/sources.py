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
from typing import Any

from graphflow.caches.isolation import Overtaken
from graphflow.caches.transaction import Transaction
from graphflow.codec import decode, encode
from graphflow.engine.arguments import arguments_of
from graphflow.engine.attempt import Attempt
from graphflow.engine.body import CameTo, raised
from graphflow.engine.cancellation import GRACE_SECONDS, STOP_SECONDS, tear_down
from graphflow.engine.plan import PlanGenerator, PlanNode
from graphflow.engine.returned import failure_from
from graphflow.engine.run_view import RunView
from graphflow.engine.tasks import start_task
from graphflow.executors.executor import Executor
from graphflow.executors.inline import watch_for_stop
from graphflow.expressions import Expression
from graphflow.run import Failure, ItemsStored
from graphflow.values import value_text

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


class SourceBody:
    """Reads all items of a map, or the first page of what its generator yields; then the attempt's `feed` has the rest."""

    module = 0

    def __init__(
        self,
        node: PlanNode,
        view: RunView,
        executor: Executor,
        semaphore: asyncio.Semaphore,
        context: contextvars.Context,
    ) -> None:
        assert node.map is not None
        self.node = node
        self._map = node.map
        #: What a generator takes for one element is limited, and the feed sees to that.
        self.seconds: float | None = None if node.map.is_fed else node.modules[0].timeout
        self._view = view
        self._executor = executor
        self._semaphore = semaphore
        self._context = context

    def open(self, attempt: Attempt) -> None:
        attempt.transaction = Transaction(self._view, attempt)

    async def start(self, attempt: Attempt) -> ItemsStored:
        watch_for_stop(attempt.is_unwanted)
        node, transaction = self.node, attempt.transaction
        assert transaction is not None
        keeps = _filter(node, transaction, self._view)
        start = self._view.taken_from_source(node.index, attempt.visit)
        if self._map.over_map:
            transaction.note_node_read(self._map.source)
            if self._map.pipelined and self._view.is_streaming(node):
                borrowed = self._view.borrowed_visit(node)
                return ItemsStored(
                    node.index, attempt.visit, [], has_more=True, borrowed=borrowed, follows=True
                )
            elements: AsyncGenerator[Any, None] = _records(node, self._view, start)
        elif self._map.generator is None:
            return ItemsStored(node.index, attempt.visit, await _read_list(node, transaction, keeps))
        else:
            bindings = self._map.generator.bindings
            arguments = await arguments_of(bindings, transaction, self._semaphore)
            elements = _elements(self._map.generator, arguments, start, self._executor)
        return await _begin_feed(attempt, Feed(attempt, start, keeps, self._view), elements, self._context)

    def came_to(self, attempt: Attempt, value: ItemsStored) -> CameTo:
        return value

    def raised(self, attempt: Attempt, error: BaseException) -> CameTo:
        if isinstance(error, Overtaken):
            return None
        failure = raised(attempt, error).failure
        start = self._view.taken_from_source(self.node.index, attempt.visit)
        return ItemsStored(self.node.index, attempt.visit, [], failure, start)


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


async def _records(node: PlanNode, view: RunView, start: int) -> AsyncGenerator[tuple[int, str], None]:
    """The records of the map that is gone through, from index `start` on."""
    assert node.map is not None
    if view.has_map_results(node.map.source):
        async for page in view.map_pages(node.map.source, start):
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


def _filter(node: PlanNode, transaction: Transaction, view: RunView) -> Filter:
    where = node.map.where if node.map is not None else None
    if where is None:
        return lambda item, index: True
    if not isinstance(where, Expression):
        return lambda item, index: bool(where(item))
    for name in where.names:
        transaction.note_read(name)
        if view.is_node(name):
            transaction.note_node_read(name)
    for name in where.node_names:
        transaction.note_node_read(name)
    draft = view.draft()
    return lambda item, index: draft.holds_for(where, item, index)


class Feed:
    """A generator at work: what it has yielded waits here, as texts, until the map takes it as a page."""

    def __init__(self, attempt: Attempt, start: int, keeps: Filter, view: RunView) -> None:
        self.node = attempt.node
        self.visit = attempt.visit
        #: Called when there is something to take.
        self.on_news: Callable[[], None] = lambda: None
        #: Elements that the generator yields once more and that are stored already.
        generator = attempt.node.map.generator if attempt.node.map is not None else None
        self._left_out = start if generator is not None and not generator.seeks else 0
        self._is_over_map = attempt.node.map is not None and attempt.node.map.over_map
        self._borrowed = view.borrowed_visit(attempt.node)
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
    generator: PlanGenerator, arguments: dict[str, Any], start: int, executor: Executor
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
    generator: Generator[Any, None, None], executor: Executor
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
