"""How much may one evaluation do? Steps, sizes and the length of integers are bounded, and grow with the state it reads.

So a condition over 100,000 subtasks works, a bomb that reads no state stops at once, and none holds the event loop for a
second, however large the state is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

from graphflow.expressions.members import EnumMember

#: A step is one part of an expression, evaluated once, or what takes as long: some 100 ns.
BASE_STEPS = 10_000
STEPS_PER_ELEMENT = 200
MAX_STEPS = 4_000_000
#: Size counts characters of strings and elements of containers.
BASE_SIZE = 100_000
SIZE_PER_ELEMENT = 8
MAX_SIZE = 20_000_000
#: Characters of the state that count as one element.
CHARACTERS_PER_ELEMENT = 16
#: Values that are looked at to count what the state holds.
MAX_COUNTED = 500_000
#: Longest integer, in bits; more than any float can hold.
MAX_INTEGER_BITS = 2_048
#: What the interpreter does in one step when it works through a container or a string by itself.
ELEMENTS_COMPARED_PER_STEP = 2
ELEMENTS_COPIED_PER_STEP = 10
CHARACTERS_COMPARED_PER_STEP = 64
CHARACTERS_SEARCHED_PER_STEP = 16
BITS_PER_STEP = 64

#: Types of which one value holds others, and types whose values are of one size.
NESTING = frozenset({list, dict, tuple, set, frozenset})
_FLAT = frozenset({int, float, bool, type(None), Decimal, date, datetime, time, timedelta})
#: Types whose comparison takes longer, and the steps of one.
SLOW = frozenset({UUID, EnumMember})
STEPS_PER_SLOW_COMPARISON = 4


class _Missing(Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"


#: What stands for a name that does not exist.
MISSING: Final = _Missing.MISSING


class MissingRead(Exception):
    """Something other than `and`, `or`, `not` and `== null` was applied to a missing name: the whole is false."""


class Unanswerable(Exception):
    """The values do not fit the operation; the text says which."""


class OverBudget(Unanswerable):
    """It would take too many steps or too much memory."""


class Evaluation:
    """One evaluation: where values are read from, and what is left of the budget."""

    __slots__ = ("_roots", "_size_left", "_steps_left", "extra", "lookup", "node", "size", "steps", "task")

    def __init__(
        self, lookup: Callable[[str], Any], node: Callable[[str], Any], task: Any, extra: Mapping[str, Any]
    ) -> None:
        self.lookup = lookup
        self.node = node
        self.task = MISSING if task is None else task
        self.extra = extra
        self.steps = BASE_STEPS
        self.size = BASE_SIZE
        #: What the state may still add.
        self._steps_left = MAX_STEPS - BASE_STEPS
        self._size_left = MAX_SIZE - BASE_SIZE
        self._roots: list[Any] = []

    @property
    def left(self) -> int:
        """Steps that may still be spent, whatever the state adds to the budget meanwhile."""
        return self.steps + self._steps_left

    def admit(self, value: Any) -> Any:
        """Let a value of the state in. Its elements raise the budget at once, what they hold only when it runs out."""
        if isinstance(value, (list, dict, str, bytes, tuple, set, frozenset)):
            self._roots.append(value)
            if not isinstance(value, (str, bytes)):
                self._raise(len(value))
        return value

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            self._raise_by_depth()
            if self.steps < 0:
                raise OverBudget(
                    f"it takes more steps than the {BASE_STEPS:,} and {STEPS_PER_ELEMENT} per element of the state "
                    f"that it reads, {MAX_STEPS:,} at most; let a node compute this, and test its result"
                )

    def build(self, size: int) -> None:
        self.spend(size // ELEMENTS_COPIED_PER_STEP)
        self.size -= size
        if self.size < 0:
            self._raise_by_depth()
            if self.size < 0:
                raise OverBudget(
                    f"it builds more than {BASE_SIZE:,} characters or elements and {SIZE_PER_ELEMENT} times the state "
                    f"that it reads, {MAX_SIZE:,} at most; let a node compute this, and test its result"
                )

    def weigh(self, value: Any) -> int:
        """Pay for one walk through all that the value holds; returns its size. What it holds twice counts twice."""
        size = 0
        pending = [value]
        while pending:
            inner = pending.pop()
            if isinstance(inner, (str, bytes)):
                size += len(inner)
                self.spend(1 + len(inner) // CHARACTERS_COMPARED_PER_STEP)
            elif type(inner) in NESTING:
                size += len(inner)
                self.spend(1 + len(inner))
                for held in (inner, inner.values()) if isinstance(inner, dict) else (inner,):
                    if not _FLAT.issuperset(map(type, held)):
                        pending.extend(held)
            elif type(inner) in SLOW:
                self.spend(STEPS_PER_SLOW_COMPARISON)
        return size

    def _raise(self, elements: int, characters: int = 0) -> None:
        steps = STEPS_PER_ELEMENT * (elements + characters // CHARACTERS_PER_ELEMENT)
        size = SIZE_PER_ELEMENT * (elements + characters)
        steps, size = min(steps, self._steps_left), min(size, self._size_left)
        self.steps += steps
        self.size += size
        self._steps_left -= steps
        self._size_left -= size

    def _raise_by_depth(self) -> None:
        """Count what the values read so far hold, each container once, however often it is met."""
        pending, self._roots = self._roots, []
        # `admit` has counted the elements of the roots already.
        known = sum(1 if isinstance(root, (str, bytes)) else 1 + len(root) for root in pending)
        elements = characters = 0
        seen: set[int] = set()
        while pending and elements < known + MAX_COUNTED:
            value = pending.pop()
            elements += 1
            if isinstance(value, (str, bytes)):
                characters += len(value)
            elif isinstance(value, (list, dict, tuple, set, frozenset)) and id(value) not in seen:
                seen.add(id(value))
                pending.extend(value.values() if isinstance(value, dict) else value)
        self._raise(max(elements - known, 0), characters)


def kind(value: Any) -> str:
    """The type of a value, in the words of errors."""
    if value is None:
        return "null"
    if isinstance(value, EnumMember):
        return value.kind
    if isinstance(value, datetime | time):
        return f"{type(value).__name__} {'without' if value.utcoffset() is None else 'with'} a zone"
    return type(value).__name__


def bounded(value: Any) -> Any:
    """A number, unless it is longer than an expression may make it."""
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise OverBudget(f"an integer would be longer than {MAX_INTEGER_BITS:,} bits")
    if isinstance(value, complex):
        raise Unanswerable("the result is a complex number")
    return value


def elements(evaluation: Evaluation, value: Any, cost: int = 1) -> Any:
    """The value, if it can be gone through, with `cost` steps paid for each element."""
    if not isinstance(value, (list, dict, str, tuple, set, frozenset)):
        raise Unanswerable(f"cannot go through {kind(value)}, it has no elements")
    evaluation.spend(len(value) * cost)
    return value
