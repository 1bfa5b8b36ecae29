"""Conditions: parsed once, evaluated on plain data within a budget. `expression.py` is where to start reading."""

from graphflow.expressions.budget import MISSING
from graphflow.expressions.expression import EXPRESSION_WORDS, Expression, parse_expression

__all__ = ["EXPRESSION_WORDS", "MISSING", "Expression", "parse_expression"]
