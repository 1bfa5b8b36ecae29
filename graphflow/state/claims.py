"""Which items of the lists in a run's state are reserved, and by what rule is the next free one found?

Claimers of one list do not conflict with each other: each depends on its own item only. A list is decoded once per
text, not once per claim, and an expression is evaluated once per item as long as that item stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from pydantic_core import from_json, to_json

from graphflow.codec import decode, encode
from graphflow.errors import StateError, WrongType
from graphflow.expressions import Expression, are_unlike, kind, parse_expression, seen, seen_value
from graphflow.graph.functions import truth
from graphflow.values import described

#: Equalities of fields, an expression over `item` and `index`, or a function of the item.
Where = Mapping[str, Any] | str | Callable[[Any], Any] | None


class Claims:
    """Who has reserved what, for all transactions of one run."""

    def __init__(self) -> None:
        self._lists: dict[str, _List] = {}
        self._reserved: dict[str, set[int]] = {}

    def reserve(self, key: str, text: str, where: Where) -> tuple[int, str] | None:
        """Reserve the first free item of the list `text` that satisfies `where`: its (index, text), or None."""
        items = self._list(key, text)
        reserved = self._reserved.setdefault(key, set())
        for index in items.satisfying(where, skipping=reserved):
            reserved.add(index)
            return index, items.item_text(index)
        return None

    def release(self, key: str, index: int) -> None:
        self._reserved[key].discard(index)

    def item_text(self, key: str, text: str | None, index: int) -> str | None:
        """The text of one item of the list `text`; None if it is not there."""
        if text is None or not text.startswith("["):
            return None
        items = self._list(key, text)
        return items.item_text(index) if index < len(items.members) else None

    def replaced(self, key: str, text: str, items: Mapping[int, str]) -> str:
        """The text of the list with the given items replaced. Costs one encoding of the whole list."""
        self._lists[key] = changed = self._list(key, text).replaced(items)
        return changed.text

    def _list(self, key: str, text: str) -> _List:
        known = self._lists.get(key)
        if known is None or known.text != text:
            if not text.startswith("["):
                raise WrongType(key, "claim", described(text), "a list")
            self._lists[key] = known = _List(text, from_json(text))
        return known


class ClaimedItem:
    """One item of a list, reserved for one module run. `item` is the module's own copy, `index` its place."""

    __slots__ = ("_fields", "_on_change", "_text", "index", "item", "key")

    def __init__(
        self, key: str, index: int, text: str, on_change: Callable[[ClaimedItem, str], None]
    ) -> None:
        self._text = text
        self._on_change = on_change
        self._fields: Any = decode(text, key)
        self.key = key
        self.index = index
        self.item = decode(text, key)

    def set(self, **fields: Any) -> None:
        """Change fields of the item, a dict, in the list; takes effect with the commit. `item` stays as it was read.

        The commit encodes the whole list once per module run, however many of its items were changed.
        """
        if not isinstance(self._fields, dict):
            found = described(self._text)
            raise StateError(
                f"item {self.index} of {self.key!r} is {found}, and set() changes fields of a dict"
            )
        changed = {**self._fields, **fields}
        self._on_change(self, encode(changed, f"{self.key}[{self.index}]"))
        self._fields = changed

    def is_unchanged(self, claims: Claims, text: Callable[[str], str | None]) -> bool:
        """Whether the item is still what was claimed; `text` gives the text of a key."""
        return claims.item_text(self.key, text(self.key), self.index) == self._text


class _List:
    """A list of the state, decoded. Its members are JSON data as stored and are never handed out."""

    __slots__ = ("_has_tags", "_verdicts", "members", "text")

    def __init__(self, text: str, members: list[Any]) -> None:
        self.text = text
        self.members = members
        self._has_tags = "$type" in text
        #: Expression -> index -> whether it holds. A memo.
        self._verdicts: dict[str, dict[int, bool]] = {}

    def item_text(self, index: int) -> str:
        return to_json(self.members[index]).decode()

    def satisfying(self, where: Where, skipping: set[int]) -> Iterator[int]:
        test = self._test(where)
        return (index for index in range(len(self.members)) if index not in skipping and test(index))

    def replaced(self, items: Mapping[int, str]) -> _List:
        members = self.members.copy()
        for index, text in items.items():
            members[index] = from_json(text)
        changed = _List(to_json(members).decode(), members)
        changed._verdicts = self._verdicts
        for verdicts in changed._verdicts.values():
            for index in items:
                verdicts.pop(index, None)
        return changed

    def _test(self, where: Where) -> Callable[[int], bool]:
        if where is None:
            return lambda index: True
        if isinstance(where, str):
            return self._condition_test(where)
        if isinstance(where, Mapping):
            wanted = seen_value(dict(where), "where")
            return lambda index: _has_fields(self._seen(index), wanted)
        return lambda index: truth(where(decode(self.item_text(index))), "where of claim()")

    def _condition_test(self, text: str) -> Callable[[int], bool]:
        condition = _condition(text)
        verdicts = self._verdicts.setdefault(text, {})

        def test(index: int) -> bool:
            verdict = verdicts.get(index)
            if verdict is None:
                extra = {"item": self._seen(index), "index": index}
                verdict = verdicts[index] = bool(condition.evaluate(_nothing, _nothing, extra=extra))
            return verdict

        return test

    def _seen(self, index: int) -> Any:
        return seen(self.item_text(index)) if self._has_tags else self.members[index]


def _has_fields(item: Any, wanted: dict[str, Any]) -> bool:
    return isinstance(item, dict) and all(
        name in item and _is_value(name, item[name], value) for name, value in wanted.items()
    )


def _is_value(name: str, found: Any, wanted: Any) -> bool:
    if found == wanted:
        return True
    if are_unlike(found, wanted):
        raise StateError(
            f"claim(where=) looks for {kind(wanted)} in {name!r}, which holds {kind(found)}; give it a {kind(found)}"
        )
    return False


@lru_cache(maxsize=256)
def _condition(text: str) -> Expression:
    condition = parse_expression(text, ("item", "index"))
    foreign = sorted(condition.names | condition.node_names | ({"task"} if condition.reads_task else set()))
    if foreign:
        raise StateError(
            f"claim(where={text!r}) knows `item` and `index`, not {foreign[0]!r}; "
            "read other values first and pass a function of the item"
        )
    return condition


def _nothing(name: str) -> Any:
    raise AssertionError(f"{name} was refused when the condition was parsed")
