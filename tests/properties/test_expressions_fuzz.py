"""Random expressions from a grammar: what the language answers is what Python answers, and nothing else comes out."""

from __future__ import annotations

import contextlib
import copy
import warnings
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from time import thread_time as time_of_thread
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphflow.errors import BudgetExceeded, EvaluationError, ExpressionError
from graphflow.expressions import MISSING, parse_expression
from graphflow.expressions.members import EnumMember


class Level(Enum):
    LOW = "low"
    HIGH = "high"


STATE: dict[str, Any] = {
    "subtasks": [{"id": "a", "status": "pending", "n": 1}, {"id": "b", "status": "done", "n": 2}],
    "numbers": [3, 1, 2],
    "count": 2,
    "name": "alpha",
    "empty": [],
    "nothing": None,
    "settings": {"on": True, "limit": 10},
}
PLAIN = (type(None), bool, int, float, str, list, dict, tuple, set)

#: Of the types that JSON has not.
VALUES: dict[str, Any] = {
    "price": Decimal("9.50"),
    "huge": Decimal("1E+999999"),
    "day": date(2026, 11, 20),
    "noon": datetime(2026, 11, 20, 12, tzinfo=UTC),
    "clock": time(8, 30),
    "took": timedelta(minutes=5),
    "identity": UUID(int=7),
    "level": EnumMember(Level.HIGH, "high"),
    "data": b"abc",
    "pair": (1, Decimal(2)),
    "days": {date(2026, 11, 20)},
    "tags": frozenset({"a", "b"}),
}
LITERALS = [
    "'2026-11-20'",
    "'2026-11-20T08:30:00+00:00'",
    "'9.5'",
    "'high'",
    "300",
    "-1.5",
    "['high', '1.5', 300]",
]

ATOMS = st.sampled_from(
    [
        *STATE,
        "0",
        "1",
        "-2",
        "2.5",
        "'a'",
        "'alpha'",
        "True",
        "None",
        "[]",
        "[1, 2]",
        "{'a': 1}",
        "{1, 2}",
        "(1, 'a')",
    ]
)
LOOKUPS = st.sampled_from(["settings['on']", "subtasks[0]['n']", "numbers[1]", "name[1:]", "numbers[::2]"])
BINARY = st.sampled_from(
    [*"+-*/%&|^<>", "//", "**", "<<", ">>", "==", "!=", "<=", ">=", "in", "not in", "and", "or"]
)
UNARY = st.sampled_from(["-", "+", "not "])
FUNCTIONS = st.sampled_from(
    ["len", "sum", "min", "max", "any", "all", "abs", "round", "sorted", "str", "int", "list"]
)


def _compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("({} {} {})".format, inner, BINARY, inner),
        st.builds("({}{})".format, UNARY, inner),
        st.builds("{}({})".format, FUNCTIONS, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("[{} for x in {} if {}]".format, st.one_of(inner, st.just("x")), inner, inner),
        st.builds("all({} for count in {})".format, st.one_of(inner, st.just("count")), inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("({} < {} <= {})".format, inner, inner, inner),
    )


EXPRESSIONS = st.recursive(st.one_of(ATOMS, LOOKUPS), _compound, max_leaves=12)
ON_VALUES = st.recursive(st.sampled_from([*VALUES, *STATE, *LITERALS]), _compound, max_leaves=12)
SCRAPS = st.lists(
    st.one_of(
        st.sampled_from(list("()[]{},:.;=+-*/%@|^~'#$_é\\\"\n\t\x00\N{FULLWIDTH LOW LINE}")),
        st.sampled_from(
            [":=", "==", "!=", "~=", "**", "//", "<<", "'''", "9", "99999", "1e9", "0x", "'a'", "f'", "b'"]
        ),
        st.sampled_from(
            ["and", "or", "not", "in", "is", "if", "else", "for", "lambda", "await", "async", "yield"]
        ),
        st.sampled_from(
            ["null", "true", "nodes", "task", "x", "len", "sorted", "range", "count", "numbers", "__class__"]
        ),
    )
).map(" ".join)


def evaluate(text: str) -> Any:
    return parse_expression(text).evaluate(lambda name: STATE.get(name, MISSING), lambda name: MISSING)


@given(EXPRESSIONS)
def test_expression_agrees_with_python_or_says_why_not(text: str) -> None:
    before = copy.deepcopy(STATE)
    started = time_of_thread()
    try:
        result = evaluate(text)
    except (ExpressionError, BudgetExceeded):
        return
    except EvaluationError:
        # Python would answer formatting with % and complex powers; a missing index is an error there, null here.
        if "%" not in text and "**" not in text:
            with pytest.raises((TypeError, ValueError, ArithmeticError, LookupError, SyntaxError)):
                _python(text)
        return
    finally:
        assert time_of_thread() - started < 1
        assert before == STATE

    try:
        expected = _python(text)
    except (LookupError, SyntaxError):
        # A missing index is a missing name here; Python's compiler refuses some parts that would never be reached.
        return
    assert isinstance(result, PLAIN)
    assert result == expected
    assert type(result) is type(expected)


@given(st.one_of(SCRAPS, st.text(max_size=60)))
def test_any_text_is_answered_with_plain_data_or_an_error_of_ours(text: str) -> None:
    before = copy.deepcopy(STATE)
    started = time_of_thread()
    with contextlib.suppress(EvaluationError, ExpressionError):
        assert isinstance(evaluate(text), PLAIN)

    assert time_of_thread() - started < 1
    assert before == STATE


@given(ON_VALUES)
def test_expression_on_values_of_any_type_is_answered_or_says_why_not(text: str) -> None:
    values = STATE | VALUES
    before = copy.deepcopy(STATE), dict(VALUES)
    started = time_of_thread()
    with contextlib.suppress(EvaluationError, ExpressionError):
        parse_expression(text).evaluate(lambda name: values.get(name, MISSING), lambda name: MISSING)

    assert time_of_thread() - started < 1
    assert before == (STATE, VALUES)


def _python(text: str) -> Any:
    with warnings.catch_warnings():
        # The compiler warns of "is" with literals and of calls that cannot succeed.
        warnings.simplefilter("ignore")
        return eval(text, dict(STATE))
