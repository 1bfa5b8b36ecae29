"""A member of an Enum, as conditions see it: named by its value, and ordered only if its class says how."""

from __future__ import annotations

import operator
from collections.abc import Callable
from enum import Enum, Flag
from typing import Any

_COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")


class EnumMember:
    """Equal to itself and to its value, by which a condition names it; the value stands for it in sets and dicts, too.

    Order and truth are those of the Enum, so most members have no order. In an order, a value stands for the member
    that has it.
    """

    __slots__ = ("member", "value")

    def __init__(self, member: Enum, value: Any) -> None:
        """`value` is the member's, as conditions see it."""
        self.member = member
        self.value = value

    @property
    def kind(self) -> str:
        return type(self.member).__name__

    def __eq__(self, other: object) -> bool:
        if type(other) is EnumMember:
            return bool(self.member == other.member)
        return bool(self.value == other)

    def __hash__(self) -> int:
        return hash(self.value)

    def __bool__(self) -> bool:
        return bool(self.member)

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return repr(self.value)

    def __lt__(self, other: object) -> bool:
        return self._ordered("<", operator.lt, other)

    def __le__(self, other: object) -> bool:
        return self._ordered("<=", operator.le, other)

    def __gt__(self, other: object) -> bool:
        return self._ordered(">", operator.gt, other)

    def __ge__(self, other: object) -> bool:
        return self._ordered(">=", operator.ge, other)

    def _ordered(self, sign: str, compare: Callable[[Any, Any], Any], other: object) -> bool:
        try:
            peer = other.member if isinstance(other, EnumMember) else type(self.member)(other)
            return bool(compare(self.member, peer))
        except Exception:
            name = other.kind if isinstance(other, EnumMember) else type(other).__name__
            raise TypeError(f"{self.kind} and {name} have no order, {sign!r} does not apply") from None


def member_or_value(member: Enum, value: Any) -> Any:
    """The value itself for members that are their values: those of IntEnum, StrEnum and Flag, say."""
    return value if _is_its_value(type(member), type(member.value)) else EnumMember(member, value)


def _is_its_value(cls: type[Enum], kind: type) -> bool:
    """A Flag is its bits. Of the others, those that derive from the type of their values, and compare as it does."""
    if issubclass(cls, Flag):
        return True
    return issubclass(cls, kind) and all(getattr(cls, name) is getattr(kind, name) for name in _COMPARISONS)
