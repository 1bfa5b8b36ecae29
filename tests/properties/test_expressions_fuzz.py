"""Random expressions from a grammar: what the language answers is what Python answers, and nothing else comes out."""

from __future__ import annotations

import contextlib
import copy
import time
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphflow.errors import BudgetExceeded, EvaluationError, ExpressionError
from graphflow.expressions import MISSING, parse_expression

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
    started = time.thread_time()
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
        assert time.thread_time() - started < 1
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
    started = time.thread_time()
    with contextlib.suppress(EvaluationError, ExpressionError):
        assert isinstance(evaluate(text), PLAIN)

    assert time.thread_time() - started < 1
    assert before == STATE


def _python(text: str) -> Any:
    with warnings.catch_warnings():
        # The compiler warns of "is" with literals and of calls that cannot succeed.
        warnings.simplefilter("ignore")
        return eval(text, dict(STATE))
