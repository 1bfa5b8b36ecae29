"""Conditions: parsed once, evaluated on what is stored within a budget. `expression.py` is where to start reading."""

from graphflow.expressions.budget import MISSING, kind
from graphflow.expressions.expression import EXPRESSION_WORDS, Expression, parse_expression
from graphflow.expressions.literals import are_unlike
from graphflow.expressions.seen import seen, seen_value

__all__ = [
    "EXPRESSION_WORDS",
    "MISSING",
    "Expression",
    "are_unlike",
    "kind",
    "parse_expression",
    "seen",
    "seen_value",
]
