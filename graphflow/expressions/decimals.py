"""How are Decimals calculated with? As Python's own context does, with 28 digits, whatever context the process has set.

So a condition holds or not in every process alike. An operand of very many digits is refused before it is worked on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
)
from typing import Any

from graphflow.expressions.budget import OverBudget, bounded

#: Most digits of an operand, and of an integer that is made of a Decimal.
MAX_DECIMAL_DIGITS = 600

_CALCULATING = Context(
    prec=28,
    rounding=ROUND_HALF_EVEN,
    Emin=-999_999,
    Emax=999_999,
    traps=[InvalidOperation, DivisionByZero, Overflow],
)
#: Lets a number of no more digits than are allowed pass as it is.
_MEASURING = Context(prec=MAX_DECIMAL_DIGITS, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[Inexact])

#: Operators by their sign.
_APPLY: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": _CALCULATING.add,
    "-": _CALCULATING.subtract,
    "*": _CALCULATING.multiply,
    "/": _CALCULATING.divide,
    "//": _CALCULATING.divide_int,
    "%": _CALCULATING.remainder,
    "**": _CALCULATING.power,
}


def is_decimal_pair(left: Any, right: Any) -> bool:
    """Whether one is a Decimal, and both can be calculated with as such. Floats cannot, as in Python."""
    if isinstance(left, Decimal):
        return isinstance(right, (Decimal, int))
    return isinstance(right, Decimal) and isinstance(left, int)


def calculated(sign: str, left: Any, right: Any) -> Any:
    """What the operator makes of two of which one is a Decimal, the other that or an int. ArithmeticError, TypeError."""
    if sign not in _APPLY:
        raise TypeError(f"{sign!r} does not apply to a Decimal")
    return _APPLY[sign](_short(left), _short(right))


def measured(number: Decimal) -> Decimal:
    """The number, if it and its whole part have no more digits than are allowed. OverBudget."""
    if number.adjusted() > MAX_DECIMAL_DIGITS:
        raise OverBudget(f"an integer of more than {MAX_DECIMAL_DIGITS} digits would be made of a Decimal")
    return _short_decimal(number)


def _short(number: Decimal | int) -> Decimal | int:
    return _short_decimal(number) if isinstance(number, Decimal) else bounded(number)


def _short_decimal(number: Decimal) -> Decimal:
    try:
        return _MEASURING.plus(number)
    except Inexact:
        raise OverBudget(f"a Decimal has more than {MAX_DECIMAL_DIGITS} digits") from None
