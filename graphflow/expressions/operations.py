"""What may an expression do with values? Its operators and functions, each within the budget of the evaluation.

What Python itself raises on unfit values (TypeError, ValueError, ArithmeticError) is put into words in `closures`.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from graphflow.expressions.budget import (
    BITS_PER_STEP,
    CHARACTERS_COMPARED_PER_STEP,
    CHARACTERS_SEARCHED_PER_STEP,
    ELEMENTS_COMPARED_PER_STEP,
    MAX_INTEGER_BITS,
    NESTING,
    SLOW,
    STEPS_PER_SLOW_COMPARISON,
    Evaluation,
    OverBudget,
    Unanswerable,
    bounded,
    elements,
    kind,
)
from graphflow.expressions.decimals import calculated, is_decimal_pair, measured
from graphflow.expressions.literals import refuse_unlike, refuse_unlike_members

#: Longest text that is read as a number, and most digits to round to.
MAX_DIGITS = 600
#: Steps to write a number as a text, to round one to digits, to add one to a sum, and to raise one to a power.
STEPS_PER_NUMBER_TEXT = 16
STEPS_PER_ROUNDING = 16
STEPS_PER_ADDITION = 4
STEPS_PER_POWER = 4
#: Steps more for a Decimal, and for a power of one.
STEPS_PER_DECIMAL = 4
STEPS_PER_DECIMAL_POWER = 600
#: Steps to compare two values of any types, and to put a pair into a dict.
STEPS_PER_COMPARISON = 2
STEPS_PER_PAIR = 4
#: Comparisons of a sort, where the interpreter knows all types beforehand, in the time of one step.
SORTED_PER_STEP = 4
#: Steps to begin a set or dict.
STEPS_PER_DISPLAY = 8
#: Keys of one hash in a set or dict: each lookup of one may be compared with all of them. No data has that many by chance.
MAX_KEYS_OF_A_HASH = 16
#: Texts shorter than this are searched naively: each place of them is compared with up to all of what is looked for.
NAIVE_SEARCH = 30_000
#: Types of which nobody can choose values of one hash.
_SCATTERED = frozenset({str, bool, type(None)})

_SEQUENCES = (str, bytes, list, tuple)
_SETS = (set, frozenset, dict)


def _add(evaluation: Evaluation, left: Any, right: Any) -> Any:
    if is_decimal_pair(left, right):
        evaluation.spend(STEPS_PER_DECIMAL)
        return calculated("+", left, right)
    if isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        evaluation.build(len(left) + len(right))
    return bounded(left + right)


def _multiply(evaluation: Evaluation, left: Any, right: Any) -> Any:
    if isinstance(right, _SEQUENCES):
        left, right = right, left
    if isinstance(left, _SEQUENCES) and isinstance(right, int):
        evaluation.build(len(left) * max(right, 0))
    elif isinstance(left, int) and isinstance(right, int):
        _pay_for_bits(evaluation, left.bit_length() + right.bit_length() - 1)
    elif is_decimal_pair(left, right):
        evaluation.spend(STEPS_PER_DECIMAL)
        return calculated("*", left, right)
    return bounded(left * right)


def _power(evaluation: Evaluation, left: Any, right: Any) -> Any:
    evaluation.spend(STEPS_PER_POWER)
    if isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
        _pay_for_bits(evaluation, (left.bit_length() - 1) * right)
    elif is_decimal_pair(left, right):
        evaluation.spend(STEPS_PER_DECIMAL_POWER)
        return calculated("**", left, right)
    return bounded(left**right)


def _shift_left(evaluation: Evaluation, left: Any, right: Any) -> Any:
    if isinstance(right, int):
        _pay_for_bits(evaluation, right)
    return bounded(left << right)


def _pay_for_bits(evaluation: Evaluation, bits: int) -> None:
    if bits > MAX_INTEGER_BITS:
        raise OverBudget(f"an integer would be longer than {MAX_INTEGER_BITS:,} bits")
    if bits > BITS_PER_STEP:
        evaluation.spend(bits // BITS_PER_STEP)


def _plain(sign: str, apply: Callable[[Any, Any], Any]) -> Operation:
    """An operator on numbers, dates and times, and on sets or dicts."""

    def operation(evaluation: Evaluation, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            # Dividing takes as long as both are long.
            _pay_for_bits(evaluation, bounded(left).bit_length())
            _pay_for_bits(evaluation, bounded(right).bit_length())
        elif is_decimal_pair(left, right):
            evaluation.spend(STEPS_PER_DECIMAL)
            return calculated(sign, left, right)
        elif isinstance(left, _SETS) and isinstance(right, _SETS):
            evaluation.spend(len(left) + len(right))
            evaluation.build(len(left) + len(right))
            return _checked(evaluation, apply(left, right))
        return bounded(apply(left, right))

    return operation


def _remainder(left: Any, right: Any) -> Any:
    if isinstance(left, (str, bytes)):
        raise TypeError("% does not format strings here")
    return left % right


def _equality(sign: str) -> Operation:
    compare = _comparison(operator.eq)
    equal = sign == "=="

    def operation(evaluation: Evaluation, left: Any, right: Any) -> bool:
        if compare(evaluation, left, right):
            return equal
        refuse_unlike(sign, left, right)
        return not equal

    return operation


def _comparison(apply: Callable[[Any, Any], Any]) -> Operation:
    def operation(evaluation: Evaluation, left: Any, right: Any) -> Any:
        if type(left) in NESTING and type(right) in NESTING:
            # No comparison looks further than the shorter side.
            shorter = left if len(left) <= len(right) else right
            evaluation.weigh(shorter)
            evaluation.spend(STEPS_PER_COMPARISON * len(shorter))
        elif isinstance(left, (str, bytes)) and isinstance(right, (str, bytes)):
            evaluation.spend(min(len(left), len(right)) // CHARACTERS_COMPARED_PER_STEP)
        return apply(left, right)

    return operation


def _contains(evaluation: Evaluation, left: Any, right: Any) -> bool:
    return _is_among("in", evaluation, left, right)


def _contains_not(evaluation: Evaluation, left: Any, right: Any) -> bool:
    return not _is_among("not in", evaluation, left, right)


def _is_among(sign: str, evaluation: Evaluation, left: Any, right: Any) -> bool:
    if isinstance(left, (str, bytes)) and isinstance(right, (str, bytes)):
        # Above that, the interpreter's search goes over either text once.
        width = 1 + (min(len(left), CHARACTERS_COMPARED_PER_STEP) // 16 if len(right) < NAIVE_SEARCH else 0)
        evaluation.spend(1 + (width * len(right) + len(left)) // CHARACTERS_SEARCHED_PER_STEP)
        return left in right  # type: ignore[operator]
    if type(left) in NESTING or isinstance(left, (str, bytes)):
        evaluation.weigh(left)
    if isinstance(right, (list, tuple)):
        if type(left) in NESTING:
            evaluation.weigh(right)
            evaluation.spend(STEPS_PER_COMPARISON * len(right))
        width = 1 + (len(left) // CHARACTERS_COMPARED_PER_STEP if isinstance(left, (str, bytes)) else 0)
        evaluation.spend(1 + width * len(right) // ELEMENTS_COMPARED_PER_STEP)
        if type(left) in SLOW or (right and type(right[0]) in SLOW):
            evaluation.spend(STEPS_PER_SLOW_COMPARISON * len(right) // ELEMENTS_COMPARED_PER_STEP)
    found = left in right
    if not found:
        refuse_unlike_members(evaluation, sign, left, right)
    return found


def _invert(value: Any) -> Any:
    if isinstance(value, bool):
        raise TypeError("a bool has no bits; write `not`")
    return ~value


Operation = Callable[[Evaluation, Any, Any], Any]

UNARY: Mapping[str, Callable[[Any], Any]] = {"-": operator.neg, "+": operator.pos, "~": _invert}

#: Operators by their sign.
OPERATIONS: Mapping[str, Operation] = {
    "+": _add,
    "-": _plain("-", operator.sub),
    "*": _multiply,
    "/": _plain("/", operator.truediv),
    "//": _plain("//", operator.floordiv),
    "%": _plain("%", _remainder),
    "**": _power,
    "<<": _shift_left,
    ">>": _plain(">>", operator.rshift),
    "|": _plain("|", operator.or_),
    "&": _plain("&", operator.and_),
    "^": _plain("^", operator.xor),
    "==": _equality("=="),
    "!=": _equality("!="),
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
    return set(_checked(evaluation, values))


def build_dict(evaluation: Evaluation, pairs: Any = ()) -> dict[Any, Any]:
    evaluation.build(len(elements(evaluation, pairs, STEPS_PER_PAIR)))
    _checked(evaluation, [pair[0] for pair in pairs if isinstance(pair, (list, tuple)) and pair])
    return dict(pairs)


def _checked(evaluation: Evaluation, keys: Any) -> Any:
    """What is, or is to be, in a set or dict: paid for, and without the many keys of one hash that make it quadratic."""
    evaluation.spend(STEPS_PER_DISPLAY + 2 * len(keys))
    kinds = set(map(type, keys))
    if kinds <= _SCATTERED:
        return keys
    if tuple in kinds:
        # Hashing goes through all that they hold, as does each comparison of two.
        for key in keys:
            evaluation.weigh(key)
            evaluation.weigh(key)
    shared = {each: count for each, count in Counter(map(hash, keys)).items() if count > MAX_KEYS_OF_A_HASH}
    if shared:
        _refuse_crowds(keys, {each: [] for each in shared})
    return keys


def _refuse_crowds(keys: Iterable[Any], distinct: dict[int, list[Any]]) -> None:
    """`distinct` has the hashes that are met too often: by equal keys, which are no harm, or by different ones?"""
    for key in keys:
        peers = distinct.get(hash(key))
        if peers is None or key in peers:
            continue
        if len(peers) == MAX_KEYS_OF_A_HASH:
            raise OverBudget(f"more than {MAX_KEYS_OF_A_HASH} keys of a set or dict would share one hash")
        peers.append(key)


def _build_list(evaluation: Evaluation, values: Iterable[Any] = ()) -> list[Any]:
    evaluation.build(len(elements(evaluation, values)))
    return list(values)


def _build_range(evaluation: Evaluation, *bounds: int) -> list[int]:
    span = range(*bounds)
    try:
        evaluation.build(len(span))
        evaluation.spend(len(span) // ELEMENTS_COMPARED_PER_STEP)
    except OverflowError:
        raise OverBudget("the range is too long") from None
    return list(span)


def _sum(evaluation: Evaluation, values: Any, *start: Any) -> Any:
    """As in Python; the sum of timedeltas needs no start, since there is no literal of one."""
    total = start[0] if start else None
    for value in elements(evaluation, values, STEPS_PER_ADDITION):
        if total is None and not start:
            total = timedelta() if isinstance(value, timedelta) else 0
        try:
            total = _add(evaluation, total, value)
        except TypeError:
            raise Unanswerable(f"sum() cannot add {kind(value)} to {kind(total)}") from None
    return 0 if total is None and not start else total


def _extreme(pick: Callable[..., Any]) -> Callable[..., Any]:
    def extreme(evaluation: Evaluation, *values: Any) -> Any:
        candidates = elements(evaluation, values[0], STEPS_PER_COMPARISON) if len(values) == 1 else values
        evaluation.weigh(candidates)
        return pick(candidates)

    return extreme


def _sorted(evaluation: Evaluation, values: Any, reverse: Any = False) -> list[Any]:
    evaluation.build(len(elements(evaluation, values)))
    before = evaluation.left
    evaluation.weigh(values)
    # Each is compared with as many as it takes to halve the list until one is left.
    evaluation.spend((before - evaluation.left) * len(values).bit_length() // SORTED_PER_STEP)
    return sorted(values, reverse=bool(reverse))


def _str(evaluation: Evaluation, value: Any = "") -> str:
    if isinstance(value, str):
        return value
    size = evaluation.weigh(value)
    evaluation.build(size)
    evaluation.spend(STEPS_PER_NUMBER_TEXT * (1 + size))
    text = str(bounded(value))
    evaluation.build(len(text))
    return text


def _number(read: type[int] | type[float]) -> Callable[..., Any]:
    def number(evaluation: Evaluation, value: Any = 0) -> Any:
        if isinstance(value, Decimal):
            value = measured(value)
        elif isinstance(value, (str, bytes)):
            if len(value) > MAX_DIGITS:
                raise OverBudget(f"a text of {len(value):,} characters is too long for a number")
            evaluation.spend(len(value) // CHARACTERS_SEARCHED_PER_STEP)
        try:
            return bounded(read(value))
        except ValueError:
            # Python's own message would quote the value.
            raise Unanswerable(f"{read.__name__}() cannot read a number from this {kind(value)}") from None

    return number


def _round(evaluation: Evaluation, value: Any, digits: Any = None) -> Any:
    if isinstance(digits, int) and abs(digits) > MAX_DIGITS:
        raise OverBudget(f"cannot round to more than {MAX_DIGITS} digits")
    evaluation.spend(STEPS_PER_ROUNDING)
    return round(measured(value) if isinstance(value, Decimal) else bounded(value), digits)


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
