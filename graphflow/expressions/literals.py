"""What does a literal of a condition mean beside a value that no literal can name?

The language has texts, numbers and lists. Beside a date, a time, a UUID or a Decimal a text is read as one, beside a timedelta
a number as its seconds, beside a tuple or a set a list. That holds for what is written in the condition: a text of the state is a text, and since it can
never be equal to a date, to ask whether it is one is an error rather than false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from graphflow.expressions.budget import Evaluation, Unanswerable, kind


def _decimal(text: str) -> Decimal:
    number = Decimal(text)
    if not number.is_finite():
        raise ValueError("NaN and Infinity are no values of the state")
    return number


#: Type -> the literals that are read as one, how, and what one looks like.
_READ: dict[type, tuple[tuple[type, ...], Callable[[Any], Any], str]] = {
    date: ((str,), date.fromisoformat, "'2026-11-20'"),
    datetime: (
        (str,),
        datetime.fromisoformat,
        "'2026-11-20T08:30:00', with a zone '2026-11-20T08:30:00+00:00'",
    ),
    time: ((str,), time.fromisoformat, "'08:30:00', with a zone '08:30:00+00:00'"),
    UUID: ((str,), UUID, "'12345678-1234-5678-1234-567812345678'"),
    Decimal: ((str,), _decimal, "'12.50'"),
    timedelta: ((int, float), lambda seconds: timedelta(seconds=seconds), "90, its seconds"),
    tuple: ((list,), tuple, "(1, 2)"),
    set: ((list,), set, "{1, 2}"),
    frozenset: ((list,), frozenset, "{1, 2}"),
}

#: What values of these types can easily be taken for, and are never equal to.
_UNLIKE: dict[type, tuple[type, ...]] = {
    **dict.fromkeys((date, datetime, time, UUID, Decimal, bytes), (str,)),
    timedelta: (int, float),
}

_ZONED = (datetime, time)
_COLLECTIONS = (list, tuple, set, frozenset)


class LiteralReading:
    """How one literal, or one list of them, reads beside values of the types that it met. A memo for all evaluations."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[type, Any] = {}

    def beside(self, literal: Any, value: Any) -> Any:
        """The literal, read as a value of the other's type if that can be. Unanswerable."""
        cls = type(value)
        found = self._known.get(cls)
        if found is None:
            if cls not in _READ:
                return literal
            found = self._known[cls] = _read(literal, cls)
        if cls in _ZONED:
            _check_zone(found, value)
        return found

    def within(self, literals: Any, value: Any) -> Any:
        """The list, tuple or set of literals with each of them read as a value of this type."""
        cls = type(value)
        found = self._known.get(cls)
        if found is None:
            if cls not in _READ or not isinstance(literals, _COLLECTIONS):
                return literals
            found = self._known[cls] = [_read(each, cls) for each in literals]
        if cls in _ZONED:
            for each in found:
                _check_zone(each, value)
        return found

    def among(self, literal: Any, values: Any) -> Any:
        """The literal, read as a value of the type that the values have."""
        return self.beside(literal, _first(values))


def _read(literal: Any, cls: type) -> Any:
    literals, read, example = _READ[cls]
    if type(literal) not in literals:
        return literal
    try:
        return read(literal)
    except (ValueError, ArithmeticError, TypeError):
        raise Unanswerable(
            f"a {cls.__name__} is compared with a literal that is none; one is written {example}"
        ) from None


def _check_zone(literal: Any, value: datetime | time) -> None:
    if type(literal) is type(value) and (literal.utcoffset() is None) != (value.utcoffset() is None):
        raise Unanswerable(
            f"a {kind(value)} is compared with a literal of the other kind; one is written {_READ[type(value)][2]}"
        )


def refuse_unlike(sign: str, left: Any, right: Any) -> None:
    """Two values are not equal: Unanswerable if, by their types, none of them ever are."""
    if are_unlike(left, right):
        raise Unanswerable(_unlike(sign, left, right))


def refuse_unlike_members(evaluation: Evaluation, sign: str, left: Any, right: Any) -> None:
    """A value is not among others: Unanswerable if, by its type, it could not be."""
    members: Iterable[Any] = ()
    if type(left) in _UNLIKE and isinstance(right, (*_COLLECTIONS, dict)):
        evaluation.spend(len(right))
        members = right
    elif isinstance(right, _COLLECTIONS) and right:
        members = (_first(right),)
    for member in members:
        if are_unlike(left, member):
            raise Unanswerable(_unlike(sign, left, member))


def are_unlike(left: Any, right: Any) -> bool:
    """Whether one is of a type that is easily taken for that of the other, as text is for a date, and never equal to it."""
    kinds = type(left), type(right)
    return kinds[1] in _UNLIKE.get(kinds[0], ()) or kinds[0] in _UNLIKE.get(kinds[1], ())


def _unlike(sign: str, left: Any, right: Any) -> str:
    return f"{sign!r} compares {kind(left)} and {kind(right)}, which are never equal; store both as one type"


def _first(values: Any) -> Any:
    return next(iter(values), None) if isinstance(values, _COLLECTIONS) else None
