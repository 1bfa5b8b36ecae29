"""The cache as one module run is handed it: in keys and values, until the module run has ended.

A transaction reads from a `StateView`, the scheduler's mirror of the run, in the same event loop: each read is a look-up
in memory. The scheduler asks afterwards whether the reads still hold (`is_valid`) and what the writes come to on the
state of that moment (`resolve`); it commits, or closes the transaction and repeats the module run. What was read and
written is kept in `isolation.py`, steps, messages and signals in `effects.py`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from graphflow.bounds import CALL_BOUNDS, checked
from graphflow.codec import decode, decode_all, encode
from graphflow.errors import (
    MissingKey,
    StateError,
    TransactionClosed,
    ValueTooLarge,
)
from graphflow.ids import ItemNumber
from graphflow.run import Message
from graphflow.settings import MAX_TRANSACTION_BYTES, MAX_VALUE_BYTES, MAX_VALUE_BYTES_WARN
from graphflow.state.calls import Calls
from graphflow.state.claims import ClaimedItem, Where
from graphflow.state.effects import Asked, Awaited, Effects, Suspended
from graphflow.state.footprint import Footprint
from graphflow.state.isolation import IsolatedState
from graphflow.state.names import TASK_KEY, checked_name
from graphflow.state.scopes import KeyScope, affixes_of
from graphflow.state.view import Messages, Owner, StateView, Steps
from graphflow.values import size_of

if TYPE_CHECKING:
    from pydantic import BaseModel

logger = logging.getLogger(__name__)

_MISSING: Final = object()


class Transaction:
    """The `Cache` of one module run. A map item pays for its construction: it makes nothing that it may not need."""

    __slots__ = (
        "_effects",
        "_ended",
        "_has_scopes",
        "_item",
        "_max_transaction_bytes",
        "_max_value_bytes",
        "_messages",
        "_owner",
        "_state",
        "_steps",
        "_view",
    )

    def __init__(
        self,
        view: StateView,
        owner: Owner | None = None,
        steps: Steps | None = None,
        messages: Messages | None = None,
        *,
        max_value_bytes: int = MAX_VALUE_BYTES,
        max_transaction_bytes: int = MAX_TRANSACTION_BYTES,
    ) -> None:
        self._view = view
        self._owner = owner
        self._steps = steps
        self._messages = messages
        self._max_value_bytes = max_value_bytes
        self._max_transaction_bytes = max_transaction_bytes
        self._state: IsolatedState | None = None
        self._effects: Effects | None = None
        self._has_scopes = False
        self._item: tuple[ItemNumber | tuple[ItemNumber, ...], str] | None = None
        self._ended = False

    # What modules call: reading

    async def get(self, key: str, default: Any = _MISSING) -> Any:
        """A fresh copy of the value; the run's own buffered writes are visible. MissingKey without a default."""
        if key == TASK_KEY:
            self._check_open()
            return self._view.task()
        name = self._name(key)
        if self._view.is_map(name):
            return await self._map_value(name, default)
        return self._value(name, self._my_state().text(name), default)

    async def exists(self, key: str) -> bool:
        if key == TASK_KEY:
            self._check_open()
            return True
        name = self._name(key)
        if self._view.is_map(name):
            self._my_state().read_node(name)
            return self._view.has_map_results(name)
        return self._my_state().exists(name)

    async def keys(self) -> list[str]:
        """The sorted names of all keys, inside a prefix block those with the prefix, without it."""
        self._check_open()
        prefix, suffix = self._affixes()
        return [name[len(prefix) : len(name) - len(suffix)] for name in self._names(prefix, suffix)]

    async def get_all(self) -> dict[str, Any]:
        self._check_open()
        prefix, suffix = self._affixes()
        state = self._my_state()
        names = self._names(prefix, suffix)
        if not prefix and not suffix:
            state.read_whole_state()
        values = {}
        for name in names:
            short = name[len(prefix) : len(name) - len(suffix)]
            if self._view.is_map(name):
                values[short] = await self._map_value(name, None)
            else:
                values[short] = self._value(name, state.text(name), _MISSING)
        return values

    async def peek(self, key: str, default: Any = _MISSING) -> Any:
        """The stored value as it is now: not checked at the commit, and without the run's own buffered writes."""
        if key == TASK_KEY:
            return await self.get(key)
        name = self._name(key)
        if self._view.is_map(name) and self._view.has_map_results(name):
            return await self._map_values(name)
        return self._value(name, self._view.text(name), default)

    async def results(self, node: str) -> AsyncIterator[tuple[int, Any]]:
        """The results of a map node as (index, result), in input order; failed and filtered items are left out."""
        self._check_open()
        node = self._view.prefix + node
        if not self._view.has_records(node):
            raise StateError(
                f"cache.results({node!r}) is for nodes with map_over; read cache.get({node!r}) instead"
            )
        self._my_state().read_node(node)
        async for page in self._view.map_pages(node):
            for index, text in page:
                yield index, decode(text, node)
                self._check_open()
                self._check_reads()

    async def claim(self, key: str, where: Where = None) -> ClaimedItem | None:
        """Reserve the first free item of a list that satisfies `where`; None if nothing is free now.

        `where` is a dict of field equalities, an expression over `item` and `index`, or a function of the item. Only
        the item is checked at the commit, not the key. It is free again when the module run has ended.
        """
        name = self._writable(key)
        state = self._my_state()
        if state.replaces(name):
            raise StateError(
                f"cannot claim an item of {key!r}: this module run has set or deleted it; claim first"
            )
        return state.claim(name, where, self._change_item)

    def _change_item(self, claimed: ClaimedItem, text: str) -> None:
        self._check_open()
        self._my_state().change_item(claimed, text)

    # What modules call: writing

    async def set(self, key: str, value: Any, *, ttl: float | None = None, immediate: bool = False) -> None:
        """Buffer a value for the commit. With `immediate` set it now, whatever becomes of this module run: only for
        keys that the run neither reads nor writes otherwise. `ttl` seconds after it was stored the key is deleted."""
        name = self._name(key) if immediate else self._writable(key)
        ttl = checked(CALL_BOUNDS, "ttl", ttl)
        text = self._encoded(name, value)
        if immediate:
            self._check_writable(name, name)
            self._my_state().note_immediate(name)
            await self._view.set_now(name, text, ttl, self._owner)
        else:
            self._my_state().replace(name, text, ttl)

    async def delete(self, key: str) -> None:
        """Remove a key; one that is missing stays missing."""
        self._my_state().replace(self._writable(key), None)

    async def clear(self) -> None:
        """Delete all keys, inside a prefix block those with the prefix. Reads the set of keys."""
        self._check_open()
        state = self._my_state()
        for name in self._names(*self._affixes()):
            if not self._view.is_map(name):
                state.check_not_immediate(name)
                state.replace(name, None)

    async def append(self, key: str, *values: Any) -> None:
        name = self._writable(key)
        self._my_state().operate(name, "append", [self._encoded(name, value) for value in values])

    async def increment(self, key: str, by: float = 1) -> None:
        name = self._writable(key)
        if isinstance(by, bool) or not isinstance(by, int | float):
            raise StateError(f"increment of {key!r} takes a number, not {type(by).__name__}")
        encode(by, name)
        self._my_state().operate(name, "increment", by)

    async def update(self, key: str, values: Mapping[str, Any]) -> None:
        name = self._writable(key)
        # Decoded again, so that what the module does with its dict afterwards changes nothing.
        self._my_state().operate(name, "update", decode(self._encoded(name, dict(values)), name))

    def with_prefix(self, prefix: str) -> KeyScope[Transaction]:
        """A block, for `with` or `async with`, in which this cache puts `prefix` before every key."""
        self._check_open()
        self._has_scopes = True
        return KeyScope(self, prefix, "")

    def with_suffix(self, suffix: str) -> KeyScope[Transaction]:
        """A block, for `with` or `async with`, in which this cache puts `suffix` behind every key."""
        self._check_open()
        self._has_scopes = True
        return KeyScope(self, "", suffix)

    # What modules call: steps, messages, signals

    async def step(self, name: str, function: Callable[..., Any], *args: Any, key: Any = None) -> Any:
        """The function's result, remembered as soon as it is there. The module run that is repeated or resumed gets it
        without another call; with other arguments (or another `key`, which stands for them) it is another call."""
        self._check_open()
        state, calls = self._my_state(), self._my_effects().calls
        if calls.are_under_way and not state.is_valid(self._view):
            await calls.over()
        # An error of the engine's own is not to break off what runs beside it, as in a TaskGroup.
        state.is_patient = False
        state.check_reads()
        state.is_patient = True
        try:
            return await self._my_effects().step(
                checked_name("step", name),
                function,
                args,
                key,
                lambda result: self._encoded(f"step {name}", result),
            )
        finally:
            state.is_patient = calls.are_under_way

    async def publish_to_mailbox(self, mailbox: str, message: Any) -> None:
        """Send a message with the commit, or as soon as this module run waits for one itself."""
        self._check_open()
        name = self._inside(checked_name("mailbox", mailbox))
        text = self._encoded(f"message to {mailbox}", message)
        self._my_effects().publish(name, text)

    async def get_message(self, mailbox: str | None = None, timeout: float | None = None) -> Any:
        """The oldest message that no other module run has taken; it leaves the mailbox with the commit.

        Without a name, one of the module's `input_mailboxes`: the first that has one. If there is none, waits
        for it, without a slot; NoMessage, a TimeoutError, after `timeout` seconds.
        """
        self._check_open()
        timeout = checked(CALL_BOUNDS, "timeout", timeout)
        effects = self._my_effects()
        message = await effects.next_message(self._mailboxes(mailbox), timeout)
        self._check_open()
        self._check_reads()
        return message

    async def wait_for_signal(
        self,
        name: str,
        schema: type[BaseModel] | None = None,
        *,
        timeout: float | None = None,
        question: str | None = None,
    ) -> Any:
        """The value that `agent.signal` or `graphflow signal` has sent under this name, as a `schema` if one is given.

        If it is not there, this module run ends here without a commit and starts again from its first line when it is:
        put what must not be done twice into a `step`. So it does if the value does not fit; raise AnswerRefused if it fits
        but is not accepted. NoSignal, a TimeoutError, `timeout` seconds after the first wait.
        """
        self._check_open()
        self._check_reads()
        if self._item is not None and not isinstance(self._item[0], int):
            raise StateError(
                f"wait_for_signal({name!r}) is not for batches, which wait as a whole for nothing; drop batch_size, so that "
                "each item waits for itself, or wait in a node before the map"
            )
        if schema is not None and not hasattr(schema, "model_json_schema"):
            raise StateError(f"wait_for_signal({name!r}) takes a pydantic model as schema, not {schema!r}")
        if question is not None:
            if not isinstance(question, str):
                raise StateError(
                    f"wait_for_signal({name!r}) takes text as question, not {type(question).__name__}"
                )
            self._encoded(f"question of signal {name}", question)
        timeout = checked(CALL_BOUNDS, "timeout", timeout)
        asked = Asked(self._inside(checked_name("signal", name)), schema, timeout, question or "")
        try:
            return await self._my_effects().answer(asked)
        except Suspended:
            self._ended = True
            raise

    def _my_effects(self) -> Effects:
        if self._effects is None:
            if self._owner is None or self._steps is None or self._messages is None:
                raise StateError(
                    "steps, messages and signals belong to module runs; this cache belongs to none"
                )
            self._effects = Effects(self._owner, self._steps, self._messages)
        return self._effects

    def _mailboxes(self, mailbox: str | None) -> Sequence[str]:
        if mailbox is not None:
            return (self._inside(checked_name("mailbox", mailbox)),)
        declared = self._owner.input_mailboxes if self._owner is not None else ()
        if not declared:
            raise StateError("get_message() needs the name of a mailbox, or a module with input_mailboxes")
        return [self._view.prefix + name for name in declared] if self._view.prefix else declared

    # What a map item is told

    @property
    def item(self) -> Any:
        """A fresh copy of the map item that this module run is about; of a batch the list of its items."""
        return decode(self._own_item("item")[1], "item")

    @property
    def index(self) -> int | list[int]:
        """Its place in the input, from 0; of a batch the places of its items."""
        index = self._own_item("index")[0]
        return index if isinstance(index, int) else list(index)

    def _own_item(self, what: str) -> tuple[ItemNumber | tuple[ItemNumber, ...], str]:
        self._check_open()
        if self._item is None:
            raise StateError(f"cache.{what} is there only in a node with map_over; this node has none")
        return self._item

    # What the engine calls

    def set_item(self, index: ItemNumber | tuple[ItemNumber, ...], text: str) -> None:
        self._item = (index, text)

    async def node_result(self, name: str, default: Any) -> Any:
        """A node's result, as a checked read; of a map node the list of its results in input order."""
        self._check_open()
        name = self._view.prefix + name
        if self._view.is_map(name):
            return await self._map_value(name, default)
        self._my_state().read_node(name)
        return self._value(name, self._view.node_text(name), default)

    def note_read(self, key: str) -> None:
        """Count the key as read: somebody reads it for this module run."""
        self._my_state().stored(key)

    def note_node_read(self, name: str) -> None:
        """Count the node's result as read."""
        self._my_state().read_node(name)

    @property
    def is_empty(self) -> bool:
        """True if nothing was read, written, claimed, sent or taken: there is nothing to validate or resolve."""
        return (self._state is None or self._state.is_empty) and (
            self._effects is None or self._effects.is_empty
        )

    @property
    def awaits(self) -> Awaited | None:
        """The signal for which the module run has ended."""
        return None if self._effects is None else self._effects.awaits

    def refuse(self, reason: str) -> bool:
        """The module run does not accept the answer that it was given last; False if it was given none."""
        return self._effects is not None and self._effects.refuse(reason)

    @property
    def outgoing(self) -> Sequence[Message]:
        """Messages that leave with the commit."""
        return () if self._effects is None else self._effects.outgoing

    @property
    def taken(self) -> Sequence[tuple[str, str]]:
        """(mailbox, text) of the messages that leave their mailboxes with the commit."""
        return () if self._effects is None else self._effects.taken

    def is_valid(self, view: StateView) -> bool:
        """Whether everything that was read is still as it was read, and every claimed item what was claimed."""
        return self._state is None or self._state.is_valid(view)

    def resolve(self, view: StateView) -> dict[str, str | None]:
        """The keys that change on the state in `view`, with their final texts; None deletes.

        Raises WrongType for a blind operation that does not apply, ValueTooLarge, TransactionTooLarge.
        """
        if self._state is None:
            return {}
        return self._state.resolve(view, self._max_value_bytes, self._max_transaction_bytes)

    def resolve_ttls(self, view: StateView) -> dict[str, float | None]:
        """Key -> seconds from the commit to the end of a key that `resolve` gives; None leaves it the end that it has, and
        one that is not here is kept for good."""
        return {} if self._state is None else self._state.ttls(view)

    def footprint(self) -> Footprint:
        """What was read and written, for tickets. Answers after `close` as well."""
        return Footprint() if self._state is None else self._state.footprint()

    @property
    def steps_under_way(self) -> Calls | None:
        """None if there are none."""
        calls = None if self._effects is None else self._effects.calls
        return calls if calls is not None and calls.are_under_way else None

    @property
    def has_ended(self) -> bool:
        return self._ended

    def end(self) -> None:
        """The module's body is over: every later call, of a task that it left behind, raises TransactionClosed."""
        self._ended = True

    def close(self) -> None:
        """End it for good: what it claimed is free again.

        Call it when the view shows what was committed: only then may another run claim the same item.
        """
        self._ended = True
        if self._state is not None:
            self._state.release_claims()
        if self._effects is not None:
            self._effects.close()
        # The owner has this transaction, too: both are freed at once.
        self._owner = None

    # Values and their texts

    def _my_state(self) -> IsolatedState:
        if self._state is None:
            self._state = IsolatedState(self._view)
        return self._state

    def _check_reads(self) -> None:
        if self._state is not None:
            self._state.check_reads()

    def _value(self, name: str, text: str | None, default: Any) -> Any:
        if text is not None:
            return decode(text, name)
        if default is _MISSING:
            raise MissingKey(name, get_close_matches(name, self._view.keys(), n=3))
        return default

    async def _map_value(self, name: str, default: Any) -> Any:
        self._my_state().read_node(name)
        if not self._view.has_map_results(name):
            return self._value(name, None, default)
        values = await self._map_values(name)
        self._check_open()
        # The records were read in pages: a new visit of the map may have begun in between.
        self._check_reads()
        return values

    async def _map_values(self, name: str) -> list[Any]:
        pages = self._view.map_pages(name)
        return [value async for page in pages for value in decode_all([text for _, text in page], name)]

    def _encoded(self, name: str, value: Any) -> str:
        text = encode(value, name)
        size = size_of(text)
        if size > self._max_value_bytes:
            raise ValueTooLarge(name, type(value).__name__, size, self._max_value_bytes)
        if size > MAX_VALUE_BYTES_WARN:
            logger.warning("state key %r holds %s bytes; keep large values elsewhere", name, f"{size:,}")
        return text

    # Names and what may be done with them

    def _affixes(self) -> tuple[str, str]:
        prefix, suffix = affixes_of(self) if self._has_scopes else ("", "")
        return self._view.prefix + prefix, suffix

    def _names(self, prefix: str, suffix: str) -> list[str]:
        """The state keys with these affixes, without those inside of sub-graphs; reads the set of keys."""
        names, borders = self._my_state().names(prefix, suffix), tuple(self._view.borders)
        return [name for name in names if not name.startswith(borders)] if borders else names

    def _name(self, key: str) -> str:
        """The state key meant by `key` here. TransactionClosed, or InvalidName for what cannot be a key."""
        self._check_open()
        if self._has_scopes and isinstance(key, str):
            prefix, suffix = affixes_of(self)
            key = f"{prefix}{key}{suffix}"
        return self._inside(checked_name("state key", key))

    def _inside(self, name: str) -> str:
        """The name as the run knows it. StateError for one that belongs to a sub-graph of this graph."""
        name = self._view.prefix + name
        for border in self._view.borders:
            if name.startswith(border):
                raise StateError(
                    f"{name!r} is inside of the sub-graph {border[:-1]!r}; take it out by outputs= of the sub-graph's node, "
                    "or give it something by inputs="
                )
        return name

    def _writable(self, key: str) -> str:
        name = self._name(key)
        self._check_writable(key, name)
        self._my_state().check_not_immediate(name)
        return name

    def _check_writable(self, key: str, name: str) -> None:
        if key == TASK_KEY or name == self._view.prefix + TASK_KEY:
            raise StateError("the key 'task' is the run's task and cannot be written; choose another key")
        if self._view.is_map(name):
            raise StateError(
                f"the key {name!r} shows the results of the map node {name!r} and cannot be written"
            )

    def _check_open(self) -> None:
        if self._ended:
            raise TransactionClosed
