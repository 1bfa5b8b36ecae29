"""The run's shared state as modules see it. Inside a module run the cache is a transaction on that state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload, runtime_checkable

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T")


class Claimed(Protocol):
    """One item of a list, reserved for this module run."""

    item: Any
    index: int

    def set(self, **fields: Any) -> None:
        """Change fields of the item (a dict) in the list; stored when the module run commits."""


class CacheBlock(AbstractContextManager["Cache", None], AbstractAsyncContextManager["Cache", None], Protocol):
    """A block, for `with` or `async with`, in which the cache itself maps keys, for this task and those it creates."""


@runtime_checkable
class Cache(Protocol):
    """What `process` is handed. Reads are checked at the commit, writes take effect with it.

    Keys are 1 to 200 characters without control characters and braces. `task` is the run's Task and cannot be written.
    None is a value like any other.
    """

    async def get(self, key: str, default: Any = ...) -> Any:
        """A fresh copy of the value. MissingKey, a KeyError, if the key is missing and no default is given."""

    async def set(self, key: str, value: Any, *, ttl: float | None = None, immediate: bool = False) -> None:
        """Store `value` at the commit; with `immediate` now, in a transaction of its own, whatever happens later.

        `ttl` seconds after it was stored the key is deleted, not before, by a transaction of its own; without it the key
        is kept, whatever was set before. `append`, `increment`, `update` and `claim` leave a key the end that it has.
        Raises UnstorableValue, ValueTooLarge, or InvalidSetting of a ttl that is not a finite number above 0, at once;
        StateError if an immediate key is used otherwise in this run.
        """

    async def delete(self, key: str) -> None:
        """Remove a key; one that is missing stays missing."""

    async def exists(self, key: str) -> bool: ...

    async def keys(self) -> list[str]:
        """The sorted names of all keys. Reads the set of keys: another run that adds or removes one is a conflict."""

    async def get_all(self) -> dict[str, Any]:
        """The whole state, by key. Reads all of it."""

    async def clear(self) -> None:
        """Delete all keys. Reads the set of keys."""

    async def append(self, key: str, *values: Any) -> None:
        """Append to a list (made if missing) without reading it, so that appenders never conflict."""

    async def increment(self, key: str, by: float = 1) -> None:
        """Add to a number (0 if missing) without reading it."""

    async def update(self, key: str, values: Mapping[str, Any]) -> None:
        """Merge into a dict (made if missing) without reading it."""

    async def peek(self, key: str, default: Any = ...) -> Any:
        """The stored value now, outside the promise: not checked at the commit, without this run's own writes."""

    async def claim(self, key: str, where: Any = ...) -> Claimed | None:
        """Reserve the first free item of a list for this module run; None if nothing is free now.

        `where` is a dict of field equalities, an expression over `item` and `index`, or a function of the item. Reads
        only that item, so that claimers do not conflict with each other.
        """

    def results(self, node: str) -> AsyncIterator[tuple[int, Any]]:
        """The results of a map node as (index, result), in input order."""

    @overload
    async def step(
        self, name: str, function: Callable[..., Awaitable[T]], *args: Any, key: Any = ...
    ) -> T: ...
    @overload
    async def step(self, name: str, function: Callable[..., T], *args: Any, key: Any = ...) -> T: ...
    async def step(self, name: str, function: Callable[..., Any], *args: Any, key: Any = None) -> Any:
        """Call the function once: its result is stored at once, whatever becomes of this module run.

        Repeated after a conflict, a failure or a crash, the module run gets that result without a call; with other
        arguments it is another call, and so is the second of two equal ones. `key`, a value that stands for everything
        the result depends on, takes the place of the arguments; a function that uses variables around it needs one. A
        sync function runs in a thread. Forgotten when the visit of the node (the item of a map) is over. The process may
        still die between the call and the storing: what is called should bear being called twice then.
        """

    async def publish_to_mailbox(self, mailbox: str, message: Any) -> None:
        """Send a message to other modules of the run. It is delivered with the commit, or, at least once and with the
        same id, when this module run waits for a message itself."""

    async def get_message(self, mailbox: str | None = None, timeout: float | None = None) -> Any:
        """Take the oldest message that no other module run has; without a name, from the module's `input_mailboxes`.

        It leaves the mailbox when this module run commits. Waits if there is none, without a slot and without using up
        the module's timeout. NoMessage, a TimeoutError, after `timeout` seconds.
        """

    async def wait_for_signal(
        self,
        name: str,
        schema: type[BaseModel] | None = None,
        *,
        timeout: float | None = None,
        question: str | None = None,
    ) -> Any:
        """What `agent.signal` or `graphflow signal` sends under this name, as a `schema` if one is given.

        If it is not there, this module run ends here and starts again from its first line when it is: put what must not
        be done twice into a `step`. A run that only waits for signals is suspended, and its process may end. Whoever is to
        answer is shown the `question` and what fits the schema. Raise `AnswerRefused(reason)` to wait for another answer.
        NoSignal, a TimeoutError, when nobody has answered `timeout` seconds after the first wait.
        """

    def with_prefix(self, prefix: str) -> CacheBlock:
        """A block in which every key gets `prefix` before it; `keys` and `clear` see only those keys."""

    def with_suffix(self, suffix: str) -> CacheBlock:
        """A block in which every key gets `suffix` behind it."""
