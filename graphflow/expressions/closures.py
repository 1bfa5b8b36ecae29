"""What runs when an expression is evaluated? One closure per part, built from the closures of its parts.

A closure takes the frame of the evaluation: the `Evaluation`, then one slot per name that is read and per loop variable.
Where a *lenient* one meets a missing value it gives null; another one ends the evaluation with MissingRead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphflow.expressions.budget import MISSING, Evaluation, MissingRead, Unanswerable, elements, kind
from graphflow.expressions.literals import LiteralReading, refuse_unlike, refuse_unlike_members
from graphflow.expressions.operations import OPERATIONS, Operation

Frame = list[Any]
Code = Callable[[Frame], Any]
#: Goes through the elements of a comprehension until `emit` returns something true; says whether it did.
Loop = Callable[[Frame, Callable[[Any], Any]], Any]
#: The slot of a loop variable, or a list of these for variables that are unpacked.
Target = int | list[Any]

#: What a slot holds until its name is read.
UNREAD = object()

#: Types that a literal needs not be read as.
_JSON = frozenset({str, int, float, bool, type(None), list, dict})
_UNFIT = (TypeError, ValueError, ArithmeticError)


def constant(value: Any) -> Code:
    return lambda frame: value


def root(slot: int, read: Callable[[Evaluation], Any], lenient: bool) -> Code:
    """A name of the state, read when it is first met."""

    def code(frame: Frame) -> Any:
        value = frame[slot]
        if value is UNREAD:
            evaluation = frame[0]
            value = frame[slot] = evaluation.admit(read(evaluation))
        return _absent(lenient) if value is MISSING else value

    return code


def attribute(base: Code, name: str, lenient: bool) -> Code:
    def code(frame: Frame) -> Any:
        value = base(frame)
        if not isinstance(value, dict):
            raise Unanswerable(f"cannot read .{name} of {kind(value)}, only of a dict")
        found = value.get(name, MISSING)
        return _absent(lenient) if found is MISSING else found

    return code


def subscript(base: Code, index: Code, lenient: bool) -> Code:
    def code(frame: Frame) -> Any:
        value = base(frame)
        key = index(frame)
        if isinstance(key, (str, tuple)):
            frame[0].weigh(key)
        try:
            # Not value[key]: a dict with a default of its own would be changed by reading it.
            found = value.get(key, MISSING) if isinstance(value, dict) else value[key]
        except IndexError:
            found = MISSING
        except TypeError:
            raise Unanswerable(f"{kind(value)} has no element for an index of type {kind(key)}") from None
        if found is MISSING and isinstance(value, dict):
            refuse_unlike_members(frame[0], "[]", key, value)
        return _absent(lenient) if found is MISSING else found

    return code


def part(base: Code, lower: Code, upper: Code, step: Code) -> Code:
    """A slice."""

    def code(frame: Frame) -> Any:
        value = base(frame)
        bounds = slice(lower(frame), upper(frame), step(frame))
        if not isinstance(value, (str, bytes, list, tuple)):
            raise Unanswerable(f"cannot slice {kind(value)}")
        try:
            frame[0].build(len(range(*bounds.indices(len(value)))))
        except (TypeError, ValueError) as error:
            raise Unanswerable(f"cannot slice {kind(value)}: {error}") from None
        return value[bounds]

    return code


def choice(test: Code, chosen: Code, otherwise: Code) -> Code:
    return lambda frame: chosen(frame) if test(frame) else otherwise(frame)


def logic(parts: Sequence[Code], stops: Callable[[Any], bool]) -> Code:
    """`and`, `or`: the first value at which it stops, else the last."""
    *first, last = parts

    def code(frame: Frame) -> Any:
        for each in first:
            value = each(frame)
            if stops(value):
                return value
        return last(frame)

    return code


def negation(operand: Code) -> Code:
    return lambda frame: not operand(frame)


def unary(sign: str, apply: Callable[[Any], Any], operand: Code) -> Code:
    def code(frame: Frame) -> Any:
        value = operand(frame)
        try:
            return apply(value)
        except TypeError:
            raise Unanswerable(f"{sign!r} does not apply to {kind(value)}") from None

    return code


def binary(sign: str, left: Code, right: Code) -> Code:
    apply = _applied(sign)
    return lambda frame: apply(frame[0], left(frame), right(frame))


def equals_literal(left: Code, literal: Any) -> Code:
    """Costs no more than the literal is long, so it needs no budget: the commonest test in a long loop."""
    reading = LiteralReading()

    def code(frame: Frame) -> bool:
        value = left(frame)
        if value == literal:
            return True
        return type(value) not in _JSON and _equals_literal("==", value, literal, reading)

    return code


def differs_from_literal(left: Code, literal: Any) -> Code:
    reading = LiteralReading()

    def code(frame: Frame) -> bool:
        value = left(frame)
        if value == literal:
            return False
        return type(value) in _JSON or not _equals_literal("!=", value, literal, reading)

    return code


def _equals_literal(sign: str, value: Any, literal: Any, reading: LiteralReading) -> bool:
    literal = reading.beside(literal, value)
    if value == literal:
        return True
    if type(value) is not type(literal):
        refuse_unlike(sign, value, literal)
    return False


def comparison(sign: str, left: Code, right: Code, is_literal: tuple[bool, bool]) -> Code:
    if is_literal != (False, True):
        apply = _compared(sign, *is_literal)
        return lambda frame: apply(frame[0], left(frame), right(frame))
    # The commonest by far, without a call more.
    applied, reading = _applied(sign), LiteralReading()
    read = reading.within if sign in ("in", "not in") else reading.beside

    def code(frame: Frame) -> Any:
        value, literal = left(frame), right(frame)
        return applied(frame[0], value, literal if type(value) in _JSON else read(literal, value))

    return code


def chain(signs: Sequence[str], operands: Sequence[Code], are_literals: Sequence[bool]) -> Code:
    """`a < b < c`: each operand is evaluated once, none after the first test that fails."""
    first, *rest = operands
    steps = list(zip(map(_compared, signs, are_literals, are_literals[1:]), rest, strict=True))

    def code(frame: Frame) -> Any:
        outcome: Any = True
        right = first(frame)
        for apply, operand in steps:
            left, right = right, operand(frame)
            outcome = apply(frame[0], left, right)
            if not outcome:
                break
        return outcome

    return code


def call(name: str, function: Callable[..., Any], arguments: Sequence[Code]) -> Code:
    def code(frame: Frame) -> Any:
        values = [argument(frame) for argument in arguments]
        try:
            return function(frame[0], *values)
        except _UNFIT as error:
            kinds = " and ".join(map(kind, values))
            raise Unanswerable(f"{name}() does not apply to {kinds} ({error})") from None

    return code


def display(parts: Sequence[Code], build: Callable[[Evaluation, Any], Any]) -> Code:
    """A list, tuple or set written out."""
    return lambda frame: _built(build, frame, [each(frame) for each in parts])


def dict_display(pairs: Sequence[tuple[Code, Code]], build: Callable[[Evaluation, Any], Any]) -> Code:
    return lambda frame: _built(build, frame, [(key(frame), value(frame)) for key, value in pairs])


def comprehension(loop: Loop, build: Callable[[Evaluation, Any], Any]) -> Code:
    def code(frame: Frame) -> Any:
        found: list[Any] = []
        loop(frame, found.append)
        return _built(build, frame, found)

    return code


def search(loop: Loop, stops: Callable[[Any], bool], found: bool) -> Code:
    """`any`, `all` over a generator: `found` if an element stops it, else the opposite."""
    return lambda frame: found if loop(frame, stops) else not found


def emission(parts: Sequence[Code]) -> Loop:
    """The innermost part of a loop: hands on an element, or the key and value of one."""
    if len(parts) == 1:
        (element,) = parts
        return lambda frame, emit: emit(element(frame))
    key, value = parts
    return lambda frame, emit: emit((key(frame), value(frame)))


def loop(items: Code, target: Target, test: Code | None, body: Loop, cost: int) -> Loop:
    """One `for`. All its steps are paid for before it starts, so that what is too long does not start."""

    def run(frame: Frame, emit: Callable[[Any], Any]) -> bool:
        for value in elements(frame[0], items(frame), cost):
            if type(target) is int:
                frame[target] = value
            else:
                _unpack(frame, target, value)
            if (test is None or test(frame)) and body(frame, emit):
                return True
        return False

    return run


def _absent(lenient: bool) -> None:
    if not lenient:
        raise MissingRead


def _compared(sign: str, left_is_literal: bool, right_is_literal: bool) -> Operation:
    """A comparison of which one side may be a literal, which is then read as what the other side is."""
    apply = _applied(sign)
    if left_is_literal == right_is_literal:
        return apply
    reading = LiteralReading()
    if right_is_literal:
        read = reading.within if sign in ("in", "not in") else reading.beside
        return lambda evaluation, left, right: apply(evaluation, left, read(right, left))
    if sign in ("in", "not in"):
        return lambda evaluation, left, right: apply(evaluation, reading.among(left, right), right)
    return lambda evaluation, left, right: apply(evaluation, reading.beside(left, right), right)


def _applied(sign: str) -> Operation:
    operation = OPERATIONS[sign]

    def applied(evaluation: Evaluation, left: Any, right: Any) -> Any:
        try:
            return operation(evaluation, left, right)
        except TypeError:
            raise Unanswerable(f"{sign!r} does not apply to {kind(left)} and {kind(right)}") from None
        except (ValueError, ArithmeticError) as error:
            raise Unanswerable(f"{sign!r} fails on {kind(left)} and {kind(right)}: {error}") from None

    return applied


def _built(build: Callable[[Evaluation, Any], Any], frame: Frame, values: list[Any]) -> Any:
    try:
        return build(frame[0], values)
    except TypeError as error:
        raise Unanswerable(str(error)) from None


def _unpack(frame: Frame, target: Target, value: Any) -> None:
    if isinstance(target, int):
        frame[target] = value
        return
    if not isinstance(value, (list, tuple, str)):
        raise Unanswerable(f"cannot unpack {kind(value)} into {len(target)} variables")
    if len(value) != len(target):
        raise Unanswerable(f"cannot unpack {kind(value)} of length {len(value)} into {len(target)} variables")
    for inner, element in zip(target, value, strict=True):
        _unpack(frame, inner, element)
