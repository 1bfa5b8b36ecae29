"""What may an expression do with values? Its operators and functions, each within the budget of the evaluation.

What Python itself raises on unfit values (TypeError, ValueError, ArithmeticError) is put into words in `closures`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from graphflow.expressions.budget import (
    CHARACTERS_PER_STEP,
    ELEMENTS_PER_STEP,
    MAX_INTEGER_BITS,
    NESTING,
    Evaluation,
    OverBudget,
    Unanswerable,
    bounded,
    elements,
    kind,
)

#: Longest text that is read as a number, and most digits to round to.
MAX_DIGITS = 600

_SEQUENCES = (str, list, tuple)


def _add(evaluation: Evaluation, left: Any, right: Any) -> Any:
    if isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        evaluation.build(len(left) + len(right))
    return bounded(left + right)


def _multiply(evaluation: Evaluation, left: Any, right: Any) -> Any:
    if isinstance(right, _SEQUENCES):
        left, right = right, left
    if isinstance(left, _SEQUENCES) and isinstance(right, int):
        evaluation.build(len(left) * max(right, 0))
    elif isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length() - 1)
    return bounded(left * right)


def _power(_: Evaluation, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
        _check_bits((left.bit_length() - 1) * right)
    return bounded(left**right)


def _shift_left(_: Evaluation, left: Any, right: Any) -> Any:
    if isinstance(right, int):
        _check_bits(right)
    return bounded(left << right)


def _modulo(_: Evaluation, left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise TypeError("% does not format strings here")
    return bounded(left % right)


def _check_bits(bits: int) -> None:
    if bits > MAX_INTEGER_BITS:
        raise OverBudget(f"an integer would be longer than {MAX_INTEGER_BITS:,} bits")


def _plain(apply: Callable[[Any, Any], Any]) -> Operation:
    """An operator on numbers, and on sets or dicts."""

    def operation(evaluation: Evaluation, left: Any, right: Any) -> Any:
        if isinstance(left, (set, dict)) and isinstance(right, (set, dict)):
            evaluation.build(len(left) + len(right))
        return bounded(apply(left, right))

    return operation


def _comparison(apply: Callable[[Any, Any], Any]) -> Operation:
    def operation(evaluation: Evaluation, left: Any, right: Any) -> Any:
        if type(left) in NESTING and type(right) in NESTING:
            # No comparison looks further than the shorter side.
            evaluation.weigh(left if len(left) <= len(right) else right)
        elif isinstance(left, str) and isinstance(right, str):
            evaluation.spend(len(left) // CHARACTERS_PER_STEP)
        return apply(left, right)

    return operation


def _contains(evaluation: Evaluation, left: Any, right: Any) -> bool:
    if type(left) in NESTING:
        evaluation.weigh(left)
        if isinstance(right, (list, tuple)):
            evaluation.weigh(right)
    elif isinstance(right, _SEQUENCES):
        width = 1 + (len(left) // CHARACTERS_PER_STEP if isinstance(left, str) else 0)
        evaluation.spend(1 + width * len(right) // ELEMENTS_PER_STEP)
    return left in right


def _contains_not(evaluation: Evaluation, left: Any, right: Any) -> bool:
    return not _contains(evaluation, left, right)


def _invert(value: Any) -> Any:
    if isinstance(value, bool):
        raise TypeError("a bool has no bits; write `not`")
    return ~value


Operation = Callable[[Evaluation, Any, Any], Any]

UNARY: Mapping[str, Callable[[Any], Any]] = {"-": operator.neg, "+": operator.pos, "~": _invert}

#: Operators by their sign.
OPERATIONS: Mapping[str, Operation] = {
    "+": _add,
    "-": _plain(operator.sub),
    "*": _multiply,
    "/": _plain(operator.truediv),
    "//": _plain(operator.floordiv),
    "%": _modulo,
    "**": _power,
    "<<": _shift_left,
    ">>": _plain(operator.rshift),
    "|": _plain(operator.or_),
    "&": _plain(operator.and_),
    "^": _plain(operator.xor),
    "==": _comparison(operator.eq),
    "!=": _comparison(operator.ne),
    "<": _comparison(operator.lt),
    "<=": _comparison(operator.le),
    ">": _comparison(operator.gt),
    ">=": _comparison(operator.ge),
    "in": _contains,
    "not in": _contains_not,
    "is": lambda _, left, right: left is right,
    "is not": lambda _, left, right: left is not right,
}


# Functions.


class Function(NamedTuple):
    """A function of the language with the number of its arguments."""

    call: Callable[..., Any]
    least: int
    most: int


def build_set(evaluation: Evaluation, values: Any = ()) -> set[Any]:
    evaluation.build(len(elements(evaluation, values)))
    _pay_for_hashing(evaluation, values)
    return set(values)


def build_dict(evaluation: Evaluation, pairs: Any = ()) -> dict[Any, Any]:
    evaluation.build(len(elements(evaluation, pairs)))
    _pay_for_hashing(evaluation, [pair[0] for pair in pairs if isinstance(pair, (list, tuple)) and pair])
    return dict(pairs)


def _pay_for_hashing(evaluation: Evaluation, keys: Iterable[Any]) -> None:
    """Only a tuple's hash goes through what the key holds."""
    for key in keys:
        if isinstance(key, tuple):
            evaluation.weigh(key)


def _build_list(evaluation: Evaluation, values: Iterable[Any] = ()) -> list[Any]:
    evaluation.build(len(elements(evaluation, values)))
    return list(values)


def _build_range(evaluation: Evaluation, *bounds: int) -> list[int]:
    span = range(*bounds)
    try:
        evaluation.build(len(span))
    except OverflowError:
        raise OverBudget("the range is too long") from None
    return list(span)


def _sum(evaluation: Evaluation, values: Any, start: Any = 0) -> Any:
    total = start
    for value in elements(evaluation, values):
        try:
            total = _add(evaluation, total, value)
        except TypeError:
            raise Unanswerable(f"sum() cannot add {kind(value)} to {kind(total)}") from None
    return total


def _extreme(pick: Callable[..., Any]) -> Callable[..., Any]:
    def extreme(evaluation: Evaluation, *values: Any) -> Any:
        candidates = elements(evaluation, values[0]) if len(values) == 1 else values
        evaluation.weigh(candidates)
        return pick(candidates)

    return extreme


def _sorted(evaluation: Evaluation, values: Any, reverse: Any = False) -> list[Any]:
    evaluation.build(len(elements(evaluation, values)))
    evaluation.weigh(values)
    return sorted(values, reverse=bool(reverse))


def _str(evaluation: Evaluation, value: Any = "") -> str:
    if isinstance(value, str):
        return value
    evaluation.build(evaluation.weigh(value))
    text = str(bounded(value))
    evaluation.build(len(text))
    return text


def _number(read: type[int] | type[float]) -> Callable[..., Any]:
    def number(_: Evaluation, value: Any = 0) -> Any:
        if isinstance(value, str) and len(value) > MAX_DIGITS:
            raise OverBudget(f"a text of {len(value):,} characters is too long for a number")
        try:
            return bounded(read(value))
        except ValueError:
            # Python's own message would quote the value.
            raise Unanswerable(f"{read.__name__}() cannot read a number from this {kind(value)}") from None

    return number


def _round(_: Evaluation, value: Any, digits: Any = None) -> Any:
    if isinstance(digits, int) and abs(digits) > MAX_DIGITS:
        raise OverBudget(f"cannot round to more than {MAX_DIGITS} digits")
    return round(value, digits)


FUNCTIONS: Mapping[str, Function] = {
    "len": Function(lambda _, value: len(value), 1, 1),
    "sum": Function(_sum, 1, 2),
    "min": Function(_extreme(min), 1, 100),
    "max": Function(_extreme(max), 1, 100),
    "any": Function(lambda evaluation, values: any(elements(evaluation, values)), 1, 1),
    "all": Function(lambda evaluation, values: all(elements(evaluation, values)), 1, 1),
    "abs": Function(lambda _, value: abs(value), 1, 1),
    "round": Function(_round, 1, 2),
    "sorted": Function(_sorted, 1, 1),
    "str": Function(_str, 0, 1),
    "int": Function(_number(int), 0, 1),
    "float": Function(_number(float), 0, 1),
    "bool": Function(lambda _, value=False: bool(value), 0, 1),
    "set": Function(build_set, 0, 1),
    "list": Function(_build_list, 0, 1),
    "dict": Function(build_dict, 0, 1),
    "range": Function(_build_range, 1, 3),
}
