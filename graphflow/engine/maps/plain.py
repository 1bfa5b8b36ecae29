"""The short path: how is an item called that can touch no state, and what does it come to?

Such an item takes nothing but itself and its index. It needs no transaction, no validation and no place in a line, and a
map may have a million of them, so everything that is the same for all is looked up once, here.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from graphflow.codec import decode
from graphflow.engine.attempt import Attempt, CameTo
from graphflow.engine.body import raised, reading_of
from graphflow.engine.failures import failure_from
from graphflow.engine.returned import Reading, Returned, Unfinished, timed_out, unstorable
from graphflow.errors import UnstorableValue, ValueTooLarge
from graphflow.executors.executor import Executor
from graphflow.graph.modules import FunctionModule
from graphflow.ids import FIRST_MODULE, ItemNumber
from graphflow.planning.plan import PlanNode, Source
from graphflow.values import value_text

#: The index of an item, or those of a batch. (None is never one: an attempt that is no item has no such body.)
Indexes = ItemNumber | tuple[ItemNumber, ...] | None


@dataclass(frozen=True, slots=True)
class PlainCall:
    """The function of a map whose items can touch no state, and how it is called. Plain data but for the function, so
    that it can be sent to wherever that can be."""

    function: Any
    #: The parameters for the item and for its index.
    item: str
    index: str | None
    reading: Reading

    def __call__(self, text: str, indexes: Indexes) -> Any:
        """What the function returns for an item, or for the list of a batch: of an async one a coroutine."""
        if self.index is None:
            return self.function(**{self.item: decode(text, "item")})
        index = list(indexes) if isinstance(indexes, tuple) else indexes
        return self.function(**{self.item: decode(text, "item"), self.index: index})

    def read(self, value: Any, indexes: Indexes) -> str | Returned:
        """What the item came to, since this was returned."""
        if isinstance(indexes, tuple):
            return self.reading.batch(value, len(indexes))
        if self.reading.to:
            return self.reading.one(value)
        try:
            return value_text(self.reading.name, value)
        except (UnstorableValue, ValueTooLarge) as error:
            return unstorable(error)

    def run(self, text: str, indexes: Indexes) -> str | Returned | Unfinished:
        """All of an item whose function is sync; raises nothing."""
        try:
            value = self(text, indexes)
            came_to = self.read(value, indexes)
        except BaseException as error:
            return Returned(failure=failure_from(error))
        # Only what cannot be stored is looked at: items that succeed pay nothing for it.
        if came_to.__class__ is not str and inspect.isawaitable(value):
            return Unfinished(value)
        return came_to


class PlainBody:
    """The body of such an item."""

    module = FIRST_MODULE

    def __init__(self, node: PlanNode, executor: Executor) -> None:
        self.node = node
        #: Where it runs if it is sync.
        self.executor = executor
        self.seconds: float | None = node.modules[0].timeout
        self.call = _call_of(node)
        #: The executor does all of an item; else each is a task of its own.
        self.is_delegated = not node.modules[0].is_async

    def open(self, attempt: Attempt) -> None:
        """It needs nothing."""

    def start(self, attempt: Attempt) -> Awaitable[Any]:
        coroutine: Awaitable[Any] = self.call(attempt.text, attempt.batch or attempt.index)
        return coroutine

    def came_to(self, attempt: Attempt, value: Any) -> CameTo:
        if attempt.is_overdue:
            return timed_out(attempt.timeout)
        return self.call.read(value, attempt.batch or attempt.index)

    def raised(self, attempt: Attempt, error: BaseException) -> CameTo:
        return raised(attempt, error)


def plain_body(node: PlanNode, executor: Executor) -> PlainBody | None:
    """None if the node's items may touch state."""
    return PlainBody(node, executor) if node.map is not None and node.modules[0].is_plain else None


def _call_of(node: PlanNode) -> PlainCall:
    module = node.modules[0]
    assert isinstance(module.module, FunctionModule)
    names = {binding.source: binding.parameter for binding in module.bindings or ()}
    return PlainCall(
        module.module.function, names[Source.ITEM], names.get(Source.INDEX), reading_of(node, FIRST_MODULE)
    )
