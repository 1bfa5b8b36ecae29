"""The short path: how is an item called that can touch no state, and what does it come to?

Such an item takes nothing but itself and its index. It needs no transaction, no validation and no place in a line, and a
map may have a million of them, so everything that is the same for all is looked up once, here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphflow.caches.operations import value_text
from graphflow.codec import decode
from graphflow.engine.attempt import Attempt, Returned, raised, returned, unstorable
from graphflow.engine.plan import PlanNode, Source
from graphflow.errors import UnstorableValue, ValueTooLarge
from graphflow.graph.modules import FunctionModule

#: The text of an item's result; what a batch came to, or that the item failed; None if nobody waits for it any more.
CameTo = str | Returned | None


class PlainBody:
    """The function of a map whose items can touch no state."""

    __slots__ = ("_decides", "_name", "call", "is_async", "seconds")

    def __init__(self, node: PlanNode) -> None:
        module = node.modules[0]
        self.is_async = module.is_async
        #: For one attempt.
        self.seconds = module.timeout
        #: Calls the function with an attempt's parameters filled.
        self.call = _caller(node)
        self._name = node.name
        self._decides = bool(module.module.to)

    def came_to(self, attempt: Attempt, value: Any) -> CameTo:
        """What the attempt came to, since its body has returned."""
        if attempt.is_overdue or attempt.batch or self._decides:
            return returned(attempt, value)
        try:
            return value_text(self._name, value)
        except (UnstorableValue, ValueTooLarge) as error:
            return unstorable(error)

    def run(self, attempt: Attempt) -> CameTo:
        """All of an item whose body is sync. In the thread that pulls it; raises nothing."""
        try:
            return self.came_to(attempt, self.call(attempt))
        except BaseException as error:
            return raised(attempt, error)


def plain_body(node: PlanNode) -> PlainBody | None:
    """None if the node's items may touch state."""
    return PlainBody(node) if node.map is not None and node.modules[0].is_plain else None


def _caller(node: PlanNode) -> Callable[[Attempt], Any]:
    module = node.modules[0].module
    assert isinstance(module, FunctionModule)
    function = module.function
    names = {binding.source: binding.parameter for binding in node.modules[0].bindings or ()}
    item, index = names[Source.ITEM], names.get(Source.INDEX)

    def call(attempt: Attempt) -> Any:
        return function(**{item: decode(attempt.text, "item")})

    if index is None:
        return call
    with_index = index

    def call_with_index(attempt: Attempt) -> Any:
        place = list(attempt.batch) if attempt.batch else attempt.index
        return function(**{item: decode(attempt.text, "item"), with_index: place})

    return call_with_index
