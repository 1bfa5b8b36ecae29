"""Inside `with cache.with_prefix(...)` the cache maps keys; which block a task is in is kept in its context.

A block counts for the task that entered it and for tasks created inside it. Other tasks of the same module run are not
disturbed.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class _Scope:
    __slots__ = ("outer", "owner", "prefix", "suffix")

    def __init__(self, owner: object, prefix: str, suffix: str, outer: _Scope | None) -> None:
        self.owner = owner
        self.prefix = prefix
        self.suffix = suffix
        self.outer = outer


_innermost: ContextVar[_Scope | None] = ContextVar("graphflow_cache_scope", default=None)


def affixes_of(owner: object) -> tuple[str, str]:
    """The prefix and suffix that the current task has given the keys of `owner`."""
    scope = _innermost.get()
    while scope is not None:
        if scope.owner is owner:
            return scope.prefix, scope.suffix
        scope = scope.outer
    return "", ""


class KeyScope(Generic[T]):
    """A block, for `with` or `async with`, in which the keys of `owner` get a prefix or suffix. Blocks nest."""

    __slots__ = ("_outer", "_owner", "_prefix", "_suffix")

    def __init__(self, owner: T, prefix: str, suffix: str) -> None:
        self._owner = owner
        self._prefix = prefix
        self._suffix = suffix
        self._outer: _Scope | None = None

    def __enter__(self) -> T:
        self._outer = _innermost.get()
        prefix, suffix = affixes_of(self._owner)
        _innermost.set(_Scope(self._owner, prefix + self._prefix, self._suffix + suffix, self._outer))
        return self._owner

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not ContextVar.reset: a generator's block may be left in another context than it was entered in.
        _innermost.set(self._outer)

    async def __aenter__(self) -> T:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, traceback)
