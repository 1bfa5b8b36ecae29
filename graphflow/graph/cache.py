"""The run's shared state as modules see it. Inside a module run the cache is a transaction on that state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, runtime_checkable


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

    async def set(self, key: str, value: Any, *, immediate: bool = False) -> None:
        """Store `value` at the commit; with `immediate` now, in a transaction of its own, whatever happens later.

        Raises UnstorableValue or ValueTooLarge at once; StateError if an immediate key is used otherwise in this run.
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

    def with_prefix(self, prefix: str) -> CacheBlock:
        """A block in which every key gets `prefix` before it; `keys` and `clear` see only those keys."""

    def with_suffix(self, suffix: str) -> CacheBlock:
        """A block in which every key gets `suffix` behind it."""
