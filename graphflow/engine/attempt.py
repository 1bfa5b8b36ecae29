"""One try of one module run, of an item of a map, or of reading a map's source, on its way through this process.

What is done in it is its body: made once for a module or a map, it serves all attempts. Slots know only these two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from graphflow.engine.maps.feed import Feed
from graphflow.engine.returned import Returned
from graphflow.graph.modules import FunctionModule
from graphflow.ids import ItemNumber, ModuleNumber
from graphflow.inputs import ItemsStored, SignalAwaited
from graphflow.planning.plan import PlanNode
from graphflow.run import Place
from graphflow.state.tickets import Ticket
from graphflow.state.transaction import Transaction

#: What an attempt came to: what its body returned or raised, for a plain item the text of its result alone; what a
#: source yielded; the signal that it waits for. None if it found itself overtaken, or nobody waits for it any more.
CameTo = Returned | str | ItemsStored | SignalAwaited | None


class Body(Protocol):
    """The body of one module of a node, or of a map's source or items."""

    node: PlanNode
    #: The number of its module in the node.
    module: ModuleNumber
    #: For one attempt; None if it sees to its time by itself.
    seconds: float | None

    def open(self, attempt: Attempt) -> None:
        """Give a new attempt what it needs, before it starts."""

    def start(self, attempt: Attempt) -> Awaitable[Any]:
        """Call it, in the attempt's own task; what is awaited is the user's coroutine itself wherever that can be."""

    def came_to(self, attempt: Attempt, value: Any) -> CameTo:
        """What the attempt came to, since this was returned."""

    def raised(self, attempt: Attempt, error: BaseException) -> CameTo:
        """What the attempt came to, since this was raised. The cancellation that the engine asked for does not come
        here."""


class Attempt:
    """What it is about, and how far it is."""

    # What an attempt has only now and then has its default here: a map pays for each attribute of each item.

    #: None for an item that can touch no state.
    transaction: Transaction | None = None
    task: asyncio.Task[None] | None = None
    #: The engine has cancelled it.
    stopping: bool = False
    #: Its time was up before it ended.
    is_overdue: bool = False
    #: Its body raised before that; what is waited for is what that has left under way.
    raised_in_time: bool = False
    #: It did not end when it was cancelled: what it still comes to is not looked at.
    is_abandoned: bool = False
    #: Calls for it that have not ended, wherever they are done; of one that is abandoned its task as well.
    at_work: int = 0
    #: Called with it when the last of these has ended.
    on_end_of_work: Callable[[Attempt], None] | None = None
    #: It counts against max_concurrent_tasks: it runs, and does not wait for a message.
    holds_slot: bool = False
    #: It waits for a message, or for a slot to go on with it.
    is_aside: bool = False
    #: Set when it has a slot again.
    comeback: asyncio.Event | None = None
    #: The seconds of its timeout that were left when it began to wait for a message.
    seconds_left: float | None = None
    #: How long its body took, at most until its time was up; waits for messages left out.
    seconds: float = 0.0
    #: Of one that has read a map's source: the generator at work.
    feed: Feed | None = None

    def __init__(
        self,
        body: Body,
        visit: int,
        index: ItemNumber | None = None,
        text: str = "",
        batch: tuple[ItemNumber, ...] = (),
        ticket: Ticket | None = None,
    ) -> None:
        """Of a map's item `index` and its `text`; of a batch the first one's index, their texts as a JSON list, and in
        `batch` the indexes of all."""
        self.body = body
        self.node = body.node
        self.visit = visit
        self.index = index
        self.text = text
        self.batch = batch
        self.ticket = ticket

    # What its transaction asks of its owner

    @property
    def place(self) -> Place:
        return Place(self.node.index, self.visit, self.module, self.index)

    @property
    def place_text(self) -> str:
        return self.place.text(self.node.name)

    @property
    def sender(self) -> str:
        return self.node.own_name

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def input_mailboxes(self) -> list[str]:
        return self.node.modules[self.module].module.input_mailboxes

    # What it is

    @property
    def module(self) -> ModuleNumber:
        """The number of its module in its node."""
        return self.body.module

    @property
    def timeout(self) -> float:
        return self.node.modules[self.module].timeout

    @property
    def indexes(self) -> tuple[ItemNumber, ...]:
        """Of the item or batch that it is about."""
        return self.batch or (() if self.index is None else (self.index,))

    @property
    def reads_source(self) -> bool:
        return self.node.map is not None and self.index is None

    @property
    def reads_generator(self) -> bool:
        """Its time is what the source takes for one element; the feed sees to that."""
        return self.body.seconds is None

    @property
    def is_function(self) -> bool:
        return isinstance(self.node.modules[self.module].module, FunctionModule)

    @property
    def kind(self) -> str:
        """What tickets know it by: its function or module class, in a sub-graph with the path, for it has other keys."""
        module = self.node.modules[self.module].module
        own = module.display_name if isinstance(module, FunctionModule) else type(module).__qualname__
        return self.node.prefix + own

    @property
    def description(self) -> str:
        """For people."""
        module = self.node.modules[self.module].module
        place = f"node {self.name!r}" if self.index is None else f"item {self.index} of node {self.name!r}"
        if self.batch:
            place = f"the batch from {place}"
        return place if module.name == self.name else f"module {module.name!r} of {place}"

    @property
    def is_cancelled(self) -> bool:
        """Whether it was told to end: by the engine, or because its time is up."""
        return self.stopping or self.is_overdue

    def is_unwanted(self) -> bool:
        """Whether nobody waits for what it comes to any more. Called from threads."""
        return self.is_cancelled or (self.transaction is not None and self.transaction.has_ended)

    def work_begins(self) -> Callable[[], None]:
        """Something is done for it, whether or not it waits for that. What this returns is to be called in the event loop,
        once, when that has ended."""
        self.at_work += 1
        return self.work_ended

    def work_ended(self) -> None:
        self.at_work -= 1
        if self.on_end_of_work is not None and not self.at_work:
            self.on_end_of_work(self)

    def again(self) -> Attempt:
        """The same try once more, with the same place in the line."""
        return Attempt(self.body, self.visit, self.index, self.text, self.batch, self.ticket)

    def close(self) -> None:
        """It is over for good: what it claimed or took, and the generator that it began, are let go."""
        if self.transaction is not None:
            self.transaction.close()
        if self.feed is not None:
            self.feed.close()
        # Its task refers to it, by its context: freed now, it is nothing that the garbage collector has to find.
        self.task = None
