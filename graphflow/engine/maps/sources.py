"""Where do the items of a map come from: a state key, the result of a node, or a generator that goes on yielding.

A list is read whole, in one transaction. What a generator yields is taken page by page, as `feed.py` gathers it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from graphflow.clock import outside
from graphflow.codec import encode
from graphflow.engine.arguments import arguments_of
from graphflow.engine.attempt import Attempt, CameTo
from graphflow.engine.body import raised
from graphflow.engine.maps.feed import Feed, Filter
from graphflow.engine.maps.retrace import Retrace
from graphflow.engine.run_view import RunView
from graphflow.errors import NoItems, NonRetryableException
from graphflow.executors.executor import Executor
from graphflow.executors.inline import watch_for_stop
from graphflow.expressions import Expression
from graphflow.graph.functions import drop, function_name, truth
from graphflow.ids import FIRST_MODULE, ItemNumber, enumerate_items
from graphflow.inputs import ItemsStored
from graphflow.planning.plan import PlanGenerator, PlanNode
from graphflow.run import SourcePage
from graphflow.state.isolation import Overtaken
from graphflow.state.transaction import Transaction
from graphflow.values import texts_digest

logger = logging.getLogger(__name__)

#: Elements, and seconds, after which a thread that runs a sync generator hands over what it has.
CHUNK_ITEMS = 256
CHUNK_SECONDS = 0.02

#: Stands for the result of a node that has none: it was skipped, say.
_NO_RESULT = object()


class SourceBody:
    """Reads all items of a map, or the first page of what its generator yields; then the attempt's `feed` has the rest."""

    module = FIRST_MODULE

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
        retrace: Retrace | None = None
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
            return ItemsStored(
                node.index, attempt.visit, await _read_list(node, transaction, self._view, keeps)
            )
        else:
            bindings = self._map.generator.bindings
            arguments = await arguments_of(bindings, transaction, self._semaphore)
            first, pages = await self._known(self._map.generator, start)
            retrace = Retrace(node.name, self._map.source, first, start, pages)
            elements = _elements(self._map.generator, arguments, first, self._executor)
        borrowed, seconds = self._view.borrowed_visit(node), attempt.timeout
        feed = Feed(node, attempt.visit, start, keeps, retrace, borrowed=borrowed, timeout=seconds)
        return await _begin_feed(attempt, feed, elements, self._context)

    async def _known(self, generator: PlanGenerator, start: int) -> tuple[int, list[SourcePage]]:
        """The element from which the generator is to yield, `start` of which are stored, and what is known of those that
        it yields once more. One that leaves out elements by itself yields from the last item on."""
        name = self.node.name
        pages = await self._view.source_pages(name) if start else []
        pages = [page for page in pages if page.end <= start]
        if not generator.seeks:
            return 0, pages
        last = _last_item(start, pages, is_filtered=self._map.where is not None)
        if last is None:
            return start, []
        digest = texts_digest([await self._view.item_text(name, last)])
        return last, [SourcePage(last, last + 1, digest)]

    def came_to(self, attempt: Attempt, value: ItemsStored) -> CameTo:
        return value

    def raised(self, attempt: Attempt, error: BaseException) -> CameTo:
        if isinstance(error, Overtaken):
            return None
        failure = raised(attempt, error).failure
        start = self._view.taken_from_source(self.node.index, attempt.visit)
        return ItemsStored(self.node.index, attempt.visit, [], failure, start)


def _last_item(start: int, pages: Sequence[SourcePage], *, is_filtered: bool) -> ItemNumber | None:
    """The last of the first `start` elements that became an item; None if there is none, or nobody knows."""
    if not is_filtered:
        return ItemNumber(start - 1) if start else None
    for page in reversed(pages):
        if page.kept is None:
            return ItemNumber(page.end - 1)
        if page.kept:
            return page.kept[-1]
    return None


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


async def _records(node: PlanNode, view: RunView, start: int) -> AsyncGenerator[tuple[ItemNumber, str], None]:
    """The records of the map that is gone through, from index `start` on."""
    assert node.map is not None
    if view.has_map_results(node.map.source):
        async for page in view.map_pages(node.map.source, start):
            for record in page:
                yield record


async def _read_list(
    node: PlanNode, transaction: Transaction, view: RunView, keeps: Filter
) -> list[tuple[ItemNumber, str]]:
    assert node.map is not None
    name = node.map.source
    if node.map.source_node is not None:
        source = await transaction.node_result(name, _NO_RESULT)
        if source is _NO_RESULT or (source is None and view.was_reduced_from_nothing(name)):
            source = []
    else:
        source = await transaction.get(name)
    if isinstance(source, str | bytes | dict) or not isinstance(source, Iterable):
        raise NoItems(name, type(source).__name__, _advice(node, source))
    return [(index, encode(item, name)) for index, item in enumerate_items(source) if keeps(item, index)]


def _advice(node: PlanNode, source: Any) -> str:
    """What to do about a source that is no list."""
    assert node.map is not None
    if source is None and node.map.source_node is not None:
        return "did it forget to return? For no items it returns []"
    if source is None:
        return "was it forgotten? For no items it is []"
    if isinstance(source, dict):
        return "its items would be list(it.items()), its keys list(it)"
    if isinstance(source, str | bytes):
        return "split it, or put it into a list if it is one item"
    return "put it into a list if it is one item"


def _filter(node: PlanNode, transaction: Transaction, view: RunView) -> Filter:
    where = node.map.where if node.map is not None else None
    if where is None:
        return lambda item, index: True
    if not isinstance(where, Expression):
        return lambda item, index: truth(where(item), "where")
    prefix = node.prefix
    for name in (prefix + name for name in where.names):
        transaction.note_read(name)
        if view.is_node(name):
            transaction.note_node_read(name)
    for name in where.node_names:
        transaction.note_node_read(prefix + name)
    draft = view.draft()
    return lambda item, index: draft.holds_for(where, item, index, prefix)


# Generators


def _elements(
    generator: PlanGenerator, arguments: dict[str, Any], start: int, executor: Executor
) -> AsyncGenerator[Any, None]:
    if generator.seeks:
        arguments["start"] = start
    elements: Any = generator.function(**arguments)
    if isinstance(elements, AsyncGenerator):
        return elements
    if isinstance(elements, Generator):
        return _from_threads(elements, executor)
    drop(elements)
    raise NonRetryableException(
        f"map_over: {function_name(generator.function)!r} returned a {type(elements).__name__}, not a generator; let it "
        "yield the items, or return a generator"
    )


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
    end = outside() + CHUNK_SECONDS
    try:
        for element in generator:
            chunk.elements.append(element)
            if len(chunk.elements) >= CHUNK_ITEMS or outside() >= end:
                return chunk
    except BaseException as error:
        chunk.error = error
    chunk.is_last = True
    return chunk
