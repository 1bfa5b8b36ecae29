"""Which conditions can be written, and what do they come to on a run's state?

An expression is parsed once, when a decision or node is built; mistakes are found there, with their position.
`compiler` says what the language has, `closures` what runs, `operations` and `budget` what it may do and how much.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphflow.errors import BudgetExceeded, EvaluationError, ExpressionError
from graphflow.expressions.budget import Evaluation, MissingRead, OverBudget, Unanswerable
from graphflow.expressions.compiler import CONSTANTS, Compiler, Program, Refusal
from graphflow.expressions.operations import FUNCTIONS

#: Characters; longer texts are refused before Python's parser sees them.
MAX_TEXT_LENGTH = 10_000

#: Words that mean something in an expression, so that no node can be named after them.
EXPRESSION_WORDS: frozenset[str] = frozenset(
    {"True", "False", "None", "and", "or", "not", "in", "is", "if", "else", "for", "nodes", "task"}
    | CONSTANTS.keys()
    | FUNCTIONS.keys()
)


@dataclass(frozen=True, slots=True, repr=False)
class Expression:
    """A parsed condition; `parse_expression` makes it. Two are equal when their texts are."""

    text: str
    #: Bare names it may read: state keys or nodes; neither words of the language nor its own variables.
    names: frozenset[str] = field(compare=False)
    #: The NAMEs of `nodes.NAME` and `nodes['NAME']`.
    node_names: frozenset[str] = field(compare=False)
    reads_task: bool = field(compare=False)
    #: Names that `evaluate` expects in `extra`.
    extra_names: frozenset[str] = field(compare=False)
    _program: Program = field(compare=False)

    def evaluate(
        self,
        lookup: Callable[[str], Any],
        node: Callable[[str], Any],
        task: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Any:
        """The value of the expression; False if it applies an operator, call, subscript or attribute to what is missing.

        `lookup` answers for a bare name and `node` for `nodes.NAME`, with plain JSON data or MISSING; each is asked at
        most once per name, and only when the name is reached. `task` is a dict, None if there is none. `extra` holds
        the names declared as `extra_names`. Nothing handed in is changed or copied: the value may be, or hold, the very
        objects that `lookup` returned. Raises EvaluationError for types that do not fit and BudgetExceeded, its
        subclass, for too much work; what `lookup` and `node` raise passes through.
        """
        try:
            return self._program.run(Evaluation(lookup, node, task, extra or {}))
        except MissingRead:
            return False
        except OverBudget as refused:
            raise BudgetExceeded(self.text, str(refused)) from None
        except Unanswerable as refused:
            raise EvaluationError(self.text, str(refused)) from None
        except RecursionError:
            raise EvaluationError(self.text, "the values are nested too deeply") from None

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return parse_expression, (self.text, tuple(sorted(self.extra_names)))


def parse_expression(text: str, extra_names: Iterable[str] = ()) -> Expression:
    """Parse a condition; `extra_names` are names that `evaluate` gets as `extra`, so that they are no state reads.

    Raises ExpressionError with the position of what is wrong.
    """
    source = _python_source(text)
    extra_names = frozenset(extra_names)
    compiler = Compiler(extra_names)
    try:
        program = compiler.compile(_parsed(text, source))
    except Refusal as refusal:
        raise ExpressionError(text, refusal.reason, _position(source, refusal.node)) from None
    return Expression(
        text=text,
        names=frozenset(compiler.names),
        node_names=frozenset(compiler.node_names),
        reads_task=compiler.reads_task,
        extra_names=extra_names,
        _program=program,
    )


#: String literals (left alone, closed or not), then what reads differently outside of them.
_LEXEMES = re.compile(
    r"""
      (?P<string> '{3} (?: \\. | (?!'{3}) . )*+ (?:'{3})?
                | "{3} (?: \\. | (?!"{3}) . )*+ (?:"{3})?
                | '    (?: \\. | [^'\\]     )*+ '?
                | "    (?: \\. | [^"\\]     )*+ "? )
    | (?P<unequal> ~= )
    | (?P<line_break> [\r\n] )
    | (?P<comment> \# )
    """,
    re.VERBOSE | re.DOTALL,
)


def _python_source(text: str) -> str:
    """The text as Python reads it, of the same length, so that positions are those of the text."""
    if len(text) > MAX_TEXT_LENGTH:
        raise ExpressionError(text, f"{len(text):,} characters are more than the {MAX_TEXT_LENGTH:,} allowed")
    if not text.strip():
        raise ExpressionError(text, "there is nothing to evaluate")
    if text.lstrip().startswith("$"):
        raise ExpressionError(
            text, "JSONPath conditions are not supported in this version; write it as a Python expression", 0
        )

    def replacement(lexeme: re.Match[str]) -> str:
        if lexeme["comment"]:
            raise ExpressionError(text, "an expression has no comments", lexeme.start())
        if lexeme["unequal"]:
            return "!="
        return lexeme["string"] or " "

    return _LEXEMES.sub(replacement, text)


def _parsed(text: str, source: str) -> ast.expr:
    stripped = source.lstrip()
    indent = len(source) - len(stripped)
    try:
        return ast.parse(stripped, mode="eval").body
    except SyntaxError as error:
        # Python gives no offset when the text ends too early.
        position = indent + error.offset - 1 if error.offset and error.lineno == 1 else len(text)
        raise ExpressionError(text, error.msg or "invalid syntax", min(position, len(text))) from None
    except ValueError as error:
        raise ExpressionError(text, f"a character is not allowed ({error})") from None
    except (RecursionError, MemoryError):
        raise ExpressionError(text, "it is nested too deeply") from None


def _position(source: str, node: ast.expr) -> int:
    """Where the node begins in the text; Python counts columns in UTF-8 bytes of its line."""
    stripped = source.lstrip()
    lines = stripped.split("\n")
    before = sum(len(line) + 1 for line in lines[: node.lineno - 1])
    column = len(lines[node.lineno - 1].encode()[: node.col_offset].decode(errors="ignore"))
    return len(source) - len(stripped) + before + column
