"""The run's shared state as modules see it. Inside a module run the cache is a transaction on that state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable


class Claimed(Protocol):
    """One item of a list, reserved for this module run."""

    item: Any
    index: int

    def set(self, **fields: Any) -> None:
        """Change fields of the item (a dict); stored when the module run commits."""


@runtime_checkable
class Cache(Protocol):
    """What `process` is handed. Reads are checked at the commit, writes take effect with it."""

    async def get(self, key: str, default: Any = ...) -> Any:
        """A fresh copy of the value. KeyError without a default if the key is missing."""

    async def set(self, key: str, value: Any, *, immediate: bool = False) -> None:
        """Store `value` at the commit; with `immediate` now, in a transaction of its own, whatever happens later."""

    async def delete(self, key: str) -> None: ...

    async def exists(self, key: str) -> bool: ...

    async def keys(self) -> list[str]:
        """The sorted names of all keys. Reads the set of keys: another run that adds one is a conflict."""

    async def get_all(self) -> dict[str, Any]:
        """The whole state, by key. Reads all of it."""

    async def clear(self) -> None: ...

    async def append(self, key: str, *values: Any) -> None:
        """Append to a list (made if missing) without reading it, so that appenders never conflict."""

    async def increment(self, key: str, by: float = 1) -> None:
        """Add to a number (0 if missing) without reading it."""

    async def update(self, key: str, values: Mapping[str, Any]) -> None:
        """Merge into a dict (made if missing) without reading it."""

    async def peek(self, key: str, default: Any = ...) -> Any:
        """The value now, outside the promise: not checked at the commit."""

    async def claim(self, key: str, where: Any = ...) -> Claimed | None:
        """Reserve one free item of a list for this module run; None if nothing is free now."""

    def results(self, node: str) -> AsyncIterator[tuple[int, Any]]:
        """The results of a map node as (index, result), in input order."""

    def with_prefix(self, prefix: str) -> AbstractContextManager[Cache]: ...

    def with_suffix(self, suffix: str) -> AbstractContextManager[Cache]: ...
