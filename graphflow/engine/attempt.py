"""One try of one module run: fill its parameters, run its body, read what it returned as result, decision or failure.

What goes wrong in the body is data: everything it raises becomes a `Failure`, but for `Overtaken`, by which a read ends a
run that has lost, `Suspended`, by which one ends that waits for a signal, and the cancellation that the engine itself
asked for.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphflow.caches.operations import value_text
from graphflow.caches.transaction import Transaction
from graphflow.engine.plan import REQUIRED, Binding, PlanModule, PlanNode, Source
from graphflow.errors import (
    InvalidName,
    InvalidSetting,
    MissingKey,
    NonRetryableException,
    StateError,
    UnstorableValue,
    ValueTooLarge,
)
from graphflow.executors.inline import InlineExecutor
from graphflow.graph.flow import names_of
from graphflow.graph.modules import END, FunctionModule
from graphflow.run import Failure, Place

if TYPE_CHECKING:
    from graphflow.engine.plain_items import PlainBody
    from graphflow.engine.sources import Feed
    from graphflow.engine.tickets import Ticket

#: Characters of a traceback and of a message that are kept.
TRACEBACK_CHARACTERS = 4_000
MESSAGE_CHARACTERS = 1_000


#: What another attempt cannot help: the module asked for that, or used its cache in a way that cannot be.
_FINAL = (NonRetryableException, StateError, InvalidName, InvalidSetting)


class Attempt:
    """One try of a module run, of an item of a map, or of reading a map's source."""

    # What an attempt has only now and then has its default here: a map pays for each attribute of each item.

    #: None for an item that can touch no state.
    transaction: Transaction | None = None
    task: asyncio.Task[None] | None = None
    #: The engine has cancelled it.
    stopping: bool = False
    #: Its time was up before it ended.
    is_overdue: bool = False
    #: It did not end when it was cancelled: what it still comes to is not looked at.
    is_abandoned: bool = False
    #: It counts against max_concurrent_tasks: it runs, and does not wait for a message.
    holds_slot: bool = False
    #: It waits for a message, or for a slot to go on with it.
    is_aside: bool = False
    #: Set when it has a slot again.
    comeback: asyncio.Event | None = None
    #: The seconds of its timeout that were left when it began to wait for a message.
    seconds_left: float | None = None
    #: How long its body took, waits for messages left out.
    seconds: float = 0.0
    #: Of one that has read a map's source: the generator at work.
    feed: Feed | None = None

    def __init__(
        self,
        node: PlanNode,
        module: int,
        visit: int,
        index: int | None = None,
        text: str = "",
        batch: tuple[int, ...] = (),
        ticket: Ticket | None = None,
        body: PlainBody | None = None,
    ) -> None:
        """Of a map's item `index` and its `text`; of a batch the first one's index, their texts as a JSON list, and in
        `batch` the indexes of all. `body` is that of an item that can touch no state: it goes the short path."""
        self.node = node
        self.module = module
        self.visit = visit
        self.index = index
        self.text = text
        self.batch = batch
        self.ticket = ticket
        self.body = body

    # What its transaction asks of its owner

    @property
    def place(self) -> Place:
        return Place(self.node.index, self.visit, self.module, self.index)

    @property
    def place_text(self) -> str:
        return self.place.text(self.node.name)

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def input_mailboxes(self) -> list[str]:
        return self.node.modules[self.module].module.input_mailboxes

    # What it is

    @property
    def timeout(self) -> float:
        return self.node.modules[self.module].timeout

    @property
    def is_item(self) -> bool:
        return self.index is not None

    @property
    def indexes(self) -> tuple[int, ...]:
        """Of the item or batch that it is about."""
        return self.batch or (() if self.index is None else (self.index,))

    @property
    def reads_source(self) -> bool:
        return self.node.map is not None and self.index is None

    @property
    def reads_generator(self) -> bool:
        """Its time is what the source takes for one element; the feed sees to that."""
        return self.index is None and self.node.map is not None and self.node.map.is_fed

    @property
    def is_function(self) -> bool:
        return isinstance(self.node.modules[self.module].module, FunctionModule)

    @property
    def kind(self) -> str:
        """What tickets know it by: its function or module class."""
        module = self.node.modules[self.module].module
        return module.display_name if isinstance(module, FunctionModule) else type(module).__qualname__

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

    def again(self) -> Attempt:
        """The same try once more, with the same place in the line."""
        return Attempt(
            self.node, self.module, self.visit, self.index, self.text, self.batch, self.ticket, self.body
        )


@dataclass(slots=True)
class Returned:
    """What one attempt came to: the text of its result with its decision, or a failure."""

    result: str | None = None
    decision: tuple[str, ...] | None = None
    failure: Failure | None = None
    #: Of a batch: the texts of the items' results.
    results: Sequence[str] = ()


def start_body(attempt: Attempt, semaphore: asyncio.Semaphore, executor: InlineExecutor) -> Awaitable[Any]:
    """Call the body with its parameters filled; what is awaited is the body itself wherever that can be."""
    module, transaction = attempt.node.modules[attempt.module], attempt.transaction
    assert transaction is not None
    if module.bindings is None:
        return module.module.process(transaction, semaphore)
    return _read_and_call(module, transaction, semaphore, executor)


async def _read_and_call(
    module: PlanModule, transaction: Transaction, semaphore: asyncio.Semaphore, executor: InlineExecutor
) -> Any:
    assert isinstance(module.module, FunctionModule)
    arguments = {
        binding.parameter: await argument(binding, transaction, semaphore)
        for binding in module.bindings or ()
        if binding.source is not Source.DEFAULT
    }
    if module.is_async:
        return await module.module.function(**arguments)
    return await executor.in_thread(module.module.function, arguments)


def returned(attempt: Attempt, value: Any) -> Returned:
    """What the attempt came to, since its body has returned."""
    if attempt.is_overdue:
        # It took the cancellation for itself; what it returns comes too late all the same.
        return timed_out(attempt)
    module = attempt.node.modules[attempt.module]
    return _read_batch(attempt, module, value) if attempt.batch else _read_return(attempt.node, module, value)


def raised(attempt: Attempt, error: BaseException) -> Returned:
    """What the attempt came to, since its body has raised."""
    if attempt.is_overdue and isinstance(error, asyncio.CancelledError):
        return timed_out(attempt)
    return Returned(failure=failure_from(error))


def unstorable(error: UnstorableValue | ValueTooLarge) -> Returned:
    """What the attempt came to, since its body has returned what cannot be stored."""
    return Returned(failure=Failure(type(error).__name__, str(error), retryable=False))


def timed_out(attempt: Attempt) -> Returned:
    return Returned(failure=Failure("ModuleTimeout", f"no result within timeout={attempt.timeout:g} s"))


async def argument(binding: Binding, transaction: Transaction, semaphore: asyncio.Semaphore) -> Any:
    """What fills a parameter of a function."""
    match binding.source:
        case Source.TASK:
            return await transaction.get("task")
        case Source.CACHE:
            return transaction
        case Source.SEMAPHORE:
            return semaphore
        case Source.ITEM:
            return transaction.item
        case Source.INDEX:
            return transaction.index
        case Source.NODE:
            return await transaction.node_result(
                binding.name, None if binding.default is REQUIRED else binding.default
            )
        case _:
            if binding.default is REQUIRED:
                return await transaction.get(binding.name)
            return await transaction.get(binding.name, binding.default)


def _read_batch(attempt: Attempt, module: PlanModule, value: Any) -> Returned:
    """A batch comes to a list with one result for each of its items."""
    if module.bindings is None and isinstance(value, dict) and "status" in value:
        if value["status"] != "success":
            return Returned(failure=_reported_failure(value))
        value = value.get("result")
    count = len(attempt.batch)
    if not isinstance(value, list | tuple) or len(value) != count:
        found = f"{len(value)} results" if isinstance(value, list | tuple) else type(value).__name__
        message = f"returned {found} for a batch of {count} items; return a list with one result for each"
        return Returned(failure=Failure("InvalidBatch", message, retryable=False))
    try:
        return Returned(results=[value_text(attempt.name, member) for member in value])
    except (UnstorableValue, ValueTooLarge) as error:
        return unstorable(error)


def _read_return(node: PlanNode, module: PlanModule, value: Any) -> Returned:
    """Functions fail by raising; a dict with `status` is asimov's contract in module classes only."""
    if module.bindings is not None:
        decision = _decision(node, module, value) if module.module.to else None
    elif isinstance(value, dict) and ("status" in value or "decision" in value):
        if value.get("status", "success") != "success":
            return Returned(failure=_reported_failure(value))
        if "new_nodes" in value:
            message = "new_nodes is not in this version; let a decision choose among nodes that the graph has"
            return Returned(failure=Failure("NotInThisVersion", message, retryable=False))
        decision = _decision(node, module, value["decision"]) if "decision" in value else None
        rest = {key: item for key, item in value.items() if key not in ("status", "decision")}
        value = (
            value["result"]
            if "result" in value
            else value.get("decision")
            if "decision" in value
            else rest or None
        )
    else:
        decision = None
    if isinstance(decision, Failure):
        return Returned(failure=decision)
    try:
        return Returned(value_text(node.name, value), decision)
    except (UnstorableValue, ValueTooLarge) as error:
        return unstorable(error)


def _reported_failure(value: dict[str, Any]) -> Failure:
    if not isinstance(value["status"], str):
        message = (
            f"process() returned status {value['status']!r}; return {{'status': 'success', 'result': ...}}, a failure "
            "with 'error', or a value without the key 'status'"
        )
        return Failure("InvalidStatus", message, retryable=False)
    error = value.get("error", value.get("result"))
    if isinstance(error, BaseException):
        return failure_from(error)
    return Failure(
        "ModuleFailed", _shortened(str(error) if error is not None else f"status {value['status']!r}")
    )


def _decision(node: PlanNode, module: PlanModule, value: Any) -> tuple[str, ...] | Failure | None:
    """The names decided for, None to fall through, or the failure of a decision that the node may not make."""
    if value is None:
        return None
    if not isinstance(value, str) and not (
        isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    ):
        message = f"a decision is a node's name, a list of names, END or None, not {type(value).__name__}"
        return Failure("InvalidDecision", message, retryable=False)
    names = names_of(value)
    allowed = {*module.module.to, END}
    unknown = [name for name in names if name not in allowed]
    if unknown:
        message = (
            f"{node.name!r} decided for {unknown[0]!r}, but to= allows only {', '.join(sorted(allowed))}"
        )
        return Failure("InvalidDecision", message, retryable=False)
    return tuple(dict.fromkeys(names))


def failure_from(error: BaseException) -> Failure:
    """An exception as plain data; one whose own text cannot be made is still recorded."""
    try:
        message = str(error)
    except BaseException as broken:
        message = f"(its message cannot be shown: {type(broken).__name__})"
    retryable = not isinstance(error, _FINAL) or isinstance(error, MissingKey)
    return Failure(type(error).__name__, _shortened(message), _traceback_text(error), retryable)


def _traceback_text(error: BaseException) -> str:
    """The frames below the engine's own, the last ones if there are too many."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/graphflow/engine/" not in frame.filename and "/graphflow/executors/" not in frame.filename
    ]
    return "".join(traceback.format_list(frames))[-TRACEBACK_CHARACTERS:]


def _shortened(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MESSAGE_CHARACTERS else text[: MESSAGE_CHARACTERS - 1] + "…"
