"""What has a module run buffered, and what does it come to on the state at the commit?"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from graphflow.codec.canonical import is_same_text
from graphflow.errors import TransactionTooLarge, ValueTooLarge
from graphflow.state.footprint import KEY_SET
from graphflow.state.operations import OPERATIONS
from graphflow.state.view import StateView
from graphflow.values import described, size_of


class _Write:
    """What is buffered for one key: a text that replaces the stored one or not, then operations."""

    __slots__ = ("operations", "replaces", "text", "ttl")

    def __init__(self, replaces: bool, text: str | None, ttl: float | None = None) -> None:
        self.replaces = replaces
        #: The new text, None to delete; of no meaning unless `replaces`.
        self.text = text
        #: Seconds from the commit to the key's end; None if it is kept for good. Of no meaning unless `replaces`.
        self.ttl = ttl
        #: (operation, argument): ("append", texts), ("increment", number), ("update", dict)
        self.operations: list[tuple[str, Any]] = []


class Writes:
    """The buffered writes of one module run, by key."""

    __slots__ = ("_by_key", "_has_ttls", "_items")

    def __init__(self) -> None:
        self._by_key: dict[str, _Write] = {}
        #: Key -> index -> text of a claimed item of the stored list.
        self._items: dict[str, dict[int, str]] = {}
        self._has_ttls = False

    def replace(self, key: str, text: str | None, ttl: float | None = None) -> None:
        """Set, or with None delete; what was buffered for this key before is dropped."""
        self._by_key[key] = _Write(True, text, ttl)
        self._has_ttls = self._has_ttls or ttl is not None

    def operate(self, key: str, operation: str, argument: Any) -> None:
        write = self._by_key.get(key)
        if write is None:
            write = self._by_key[key] = _Write(False, None)
        write.operations.append((operation, argument))

    def change_item(self, key: str, index: int, text: str) -> None:
        self._items.setdefault(key, {})[index] = text

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def replaces(self, key: str) -> bool:
        """Whether the key's value after the commit does not depend on what is stored."""
        write = self._by_key.get(key)
        return write is not None and write.replaces

    def leave(self, key: str) -> bool:
        """Whether a key that was set, deleted or operated on exists after the commit."""
        write = self._by_key[key]
        return write.text is not None or bool(write.operations)

    def applied_to(self, view: StateView, key: str, stored: str | None) -> str | None:
        """What the stored text of a key becomes. WrongType if an operation does not apply to what is there."""
        text = stored
        if text is not None and key in self._items:
            text = view.claims.replaced(key, text, self._items[key])
        write = self._by_key.get(key)
        if write is None:
            return text
        if write.replaces:
            text = write.text
        for operation, argument in write.operations:
            text = OPERATIONS[operation](key, text, argument)
        return text

    def resolve(
        self, view: StateView, max_value_bytes: int, max_transaction_bytes: int
    ) -> dict[str, str | None]:
        """Key -> final text for the keys that change, or whose end may; None deletes."""
        texts: dict[str, str | None] = {}
        total = 0
        for key in self._keys():
            stored = view.text(key)
            text = self.applied_to(view, key, stored)
            if is_same_text(text, stored) and not self._may_change_end(view, key):
                continue
            texts[key] = text
            if text is not None:
                total += size_of(key) + _checked_size(key, text, max_value_bytes)
        if total > max_transaction_bytes:
            raise TransactionTooLarge(total, max_transaction_bytes)
        return texts

    def ttls(self, view: StateView) -> dict[str, float | None]:
        """Key -> seconds from the commit to its end; None for a key that keeps the end which it has, since it was changed
        and not set. A key that is not here is kept for good."""
        if not self._has_ttls and not view.expiring:
            return {}
        ttls: dict[str, float | None] = {}
        for key in self._keys():
            write = self._by_key.get(key)
            if write is None or not write.replaces:
                ttls[key] = None
            elif write.ttl is not None:
                ttls[key] = write.ttl
        return ttls

    def _may_change_end(self, view: StateView, key: str) -> bool:
        write = self._by_key.get(key)
        return write is not None and write.replaces and (write.ttl is not None or key in view.expiring)

    def footprint(self, view: StateView) -> frozenset[str]:
        keys = frozenset(self._keys())
        changes_keyset = any(self.leave(key) != (view.text(key) is not None) for key in self._by_key)
        return keys | {KEY_SET} if changes_keyset else keys

    def _keys(self) -> Collection[str]:
        return {**self._by_key, **self._items} if self._items else self._by_key


def _checked_size(key: str, text: str, limit: int) -> int:
    size = size_of(text)
    if size > limit:
        raise ValueTooLarge(key, described(text).partition(" ")[2], size, limit)
    return size
