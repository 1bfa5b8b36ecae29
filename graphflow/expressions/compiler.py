"""What does the expression language have? A syntax tree goes in, a program of closures comes out.

Whatever is not named here does not exist in the language: there is no list of what is forbidden. Python's own parser has
normalised all identifiers (NFKC), so the names checked here are the names that would be read.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from graphflow.expressions import closures
from graphflow.expressions.budget import MAX_INTEGER_BITS, MISSING, Evaluation
from graphflow.expressions.closures import Code, Loop, Target
from graphflow.expressions.operations import FUNCTIONS, UNARY, build_dict, build_set

#: Steps of one variable among several that an element is unpacked into.
STEPS_PER_UNPACKED = 2
#: Steps of parts that take longer than to read a value.
_STEPS: dict[type[ast.AST], int] = {
    **dict.fromkeys((ast.Compare, ast.BinOp, ast.Call, ast.Subscript, ast.List, ast.Tuple), 3),
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), 5),
}
#: Levels of nesting; each costs one or two frames of Python's stack at evaluation.
MAX_DEPTH = 100

#: Spellings beside Python's own True, False and None.
CONSTANTS: dict[str, bool | None] = {"null": None, "none": None, "nil": None, "true": True, "false": False}

_SIGNS: dict[type[ast.AST], str] = {
    **{
        ast.Add: "+",
        ast.Sub: "-",
        ast.Mult: "*",
        ast.Div: "/",
        ast.FloorDiv: "//",
        ast.Mod: "%",
        ast.Pow: "**",
    },
    **{ast.LShift: "<<", ast.RShift: ">>", ast.BitOr: "|", ast.BitAnd: "&", ast.BitXor: "^"},
    **{ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="},
    **{ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not"},
    **{ast.USub: "-", ast.UAdd: "+", ast.Invert: "~"},
}
_NULL_TESTS = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot)
_ABSENT_PARTS = {
    "Lambda": "lambda",
    "NamedExpr": "assignment (:=)",
    "JoinedStr": "an f-string",
    "TemplateStr": "a t-string",
    "Starred": "unpacking with *",
    "Await": "await",
    "Yield": "yield",
    "YieldFrom": "yield",
}


class Refusal(Exception):
    """The language has no such thing; `node` is where it stands. Becomes an ExpressionError where the text is known."""

    def __init__(self, node: ast.expr, reason: str) -> None:
        self.node = node
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Program:
    """The closures of one expression, and how many slots they need. Holds no value between two runs."""

    code: Code
    slots: int

    def run(self, evaluation: Evaluation) -> Any:
        return self.code([evaluation, *[closures.UNREAD] * self.slots])


class Compiler:
    """Turns one syntax tree into a program, and notes which names it reads."""

    def __init__(self, extra_names: frozenset[str]) -> None:
        self.names: set[str] = set()
        self.node_names: set[str] = set()
        self.reads_task = False
        self._extra_names = extra_names
        self._scopes: list[dict[str, int]] = []
        self._root_slots: dict[tuple[str, str], int] = {}
        self._slots = 0
        self._depth = 0

    def compile(self, tree: ast.expr) -> Program:
        code = self._code(tree, lenient=True)
        return Program(code, self._slots)

    def _code(self, node: ast.expr, lenient: bool = False) -> Code:
        handler = _HANDLERS.get(type(node))
        if handler is None:
            what = _ABSENT_PARTS.get(type(node).__name__, type(node).__name__)
            raise Refusal(node, f"{what} is not part of the expression language")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Refusal(node, f"it is nested more than {MAX_DEPTH} levels deep")
        code = handler(self, node, lenient)
        self._depth -= 1
        return code

    def _codes(self, nodes: Sequence[ast.expr], lenient: bool = False) -> list[Code]:
        return [self._code(node, lenient) for node in nodes]

    # Values

    def _constant(self, node: ast.Constant, lenient: bool) -> Code:
        value = node.value
        if value is not None and not isinstance(value, (str, int, float)):
            raise Refusal(
                node, f"a literal of type {type(value).__name__} is not part of the expression language"
            )
        if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise Refusal(node, f"an integer is longer than {MAX_INTEGER_BITS:,} bits")
        return closures.constant(value)

    def _name(self, node: ast.Name, lenient: bool) -> Code:
        name = node.id
        if name in CONSTANTS:
            return closures.constant(CONSTANTS[name])
        _refuse_private(node, name)
        slot = self._variable(name)
        if slot is not None:
            return operator.itemgetter(slot)
        if name in self._extra_names:
            return self._root("extra", name, lambda evaluation: evaluation.extra.get(name, MISSING), lenient)
        if name in FUNCTIONS:
            raise Refusal(node, f"{name!r} is a function; call it: {name}(...)")
        if name == "nodes":
            raise Refusal(node, "'nodes' takes the name of a node: nodes.NAME or nodes['NAME']")
        if name == "task":
            self.reads_task = True
            return self._root("task", name, lambda evaluation: evaluation.task, lenient)
        self.names.add(name)
        return self._root("name", name, lambda evaluation: evaluation.lookup(name), lenient)

    def _node_result(self, name: str, lenient: bool) -> Code:
        self.node_names.add(name)
        return self._root("node", name, lambda evaluation: evaluation.node(name), lenient)

    def _root(self, source: str, name: str, read: Callable[[Evaluation], Any], lenient: bool) -> Code:
        slot = self._root_slots.get((source, name))
        if slot is None:
            slot = self._root_slots[source, name] = self._new_slot()
        return closures.root(slot, read, lenient)

    def _attribute(self, node: ast.Attribute, lenient: bool) -> Code:
        _refuse_private(node, node.attr)
        if self._is_nodes(node.value):
            return self._node_result(node.attr, lenient)
        return closures.attribute(self._code(node.value), node.attr, lenient)

    def _subscript(self, node: ast.Subscript, lenient: bool) -> Code:
        index = node.slice
        if self._is_nodes(node.value):
            if not (isinstance(index, ast.Constant) and isinstance(index.value, str)):
                raise Refusal(node, "nodes[...] takes the name of a node in quotes")
            return self._node_result(index.value, lenient)
        base = self._code(node.value)
        if isinstance(index, ast.Slice):
            return closures.part(
                base, self._bound(index.lower), self._bound(index.upper), self._bound(index.step)
            )
        return closures.subscript(base, self._code(index), lenient)

    def _bound(self, node: ast.expr | None) -> Code:
        return closures.constant(None) if node is None else self._code(node)

    def _list(self, node: ast.List, lenient: bool) -> Code:
        return closures.display(self._codes(node.elts, lenient=True), _as_it_is)

    def _tuple(self, node: ast.Tuple, lenient: bool) -> Code:
        return closures.display(self._codes(node.elts, lenient=True), lambda _, values: tuple(values))

    def _set(self, node: ast.Set, lenient: bool) -> Code:
        return closures.display(self._codes(node.elts, lenient=True), build_set)

    def _dict(self, node: ast.Dict, lenient: bool) -> Code:
        pairs: list[tuple[Code, Code]] = []
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                raise Refusal(value, "unpacking with ** is not part of the expression language")
            pairs.append((self._code(key, lenient=True), self._code(value, lenient=True)))
        return closures.dict_display(pairs, build_dict)

    # Operators

    def _choice(self, node: ast.IfExp, lenient: bool) -> Code:
        test = self._code(node.test, lenient=True)
        return closures.choice(test, self._code(node.body, lenient), self._code(node.orelse, lenient))

    def _logic(self, node: ast.BoolOp, lenient: bool) -> Code:
        stops = operator.truth if isinstance(node.op, ast.Or) else operator.not_
        return closures.logic(self._codes(node.values, lenient=True), stops)

    def _unary(self, node: ast.UnaryOp, lenient: bool) -> Code:
        if isinstance(node.op, ast.Not):
            return closures.negation(self._code(node.operand, lenient=True))
        sign = _SIGNS[type(node.op)]
        return closures.unary(sign, UNARY[sign], self._code(node.operand))

    def _binary(self, node: ast.BinOp, lenient: bool) -> Code:
        sign = _SIGNS.get(type(node.op))
        if sign is None:
            raise Refusal(node, "the operator @ is not part of the expression language")
        return closures.binary(sign, self._code(node.left), self._code(node.right))

    def _compare(self, node: ast.Compare, lenient: bool) -> Code:
        operands = [node.left, *node.comparators]
        for place, test in enumerate(node.ops):
            if isinstance(test, (ast.Is, ast.IsNot)) and not any(
                map(_is_singleton, operands[place : place + 2])
            ):
                raise Refusal(node, "'is' compares with null, true or false only; write == or !=")
        codes = [
            self._code(operand, _only_against_null(node, place)) for place, operand in enumerate(operands)
        ]
        signs = [_SIGNS[type(test)] for test in node.ops]
        if len(signs) > 1:
            return closures.chain(signs, codes, [*map(_is_literal, operands)])
        literal = node.comparators[0]
        if isinstance(literal, ast.Constant) and signs[0] == "==":
            return closures.equals_literal(codes[0], literal.value)
        if isinstance(literal, ast.Constant) and signs[0] == "!=":
            return closures.differs_from_literal(codes[0], literal.value)
        left, right = codes
        return closures.comparison(signs[0], left, right, (_is_literal(operands[0]), _is_literal(literal)))

    # Calls

    def _call(self, node: ast.Call, lenient: bool) -> Code:
        name = _function_name(node)
        function = FUNCTIONS[name]
        if not function.least <= len(node.args) <= function.most:
            raise Refusal(
                node, f"{name}() takes {_count(function.least, function.most)}, not {len(node.args)}"
            )
        for keyword in node.keywords:
            if name != "sorted" or keyword.arg != "reverse" or len(node.keywords) > 1:
                raise Refusal(
                    keyword.value, "an argument cannot have a name, except in sorted(..., reverse=true)"
                )
        if name in ("any", "all") and isinstance(node.args[0], ast.GeneratorExp):
            return self._search(name, node.args[0])
        arguments = self._codes([*node.args, *(keyword.value for keyword in node.keywords)])
        return closures.call(name, function.call, arguments)

    def _search(self, name: str, node: ast.GeneratorExp) -> Code:
        loop = self._loop(node, node.generators, [node.elt])
        return (
            closures.search(loop, operator.truth, True)
            if name == "any"
            else closures.search(loop, operator.not_, False)
        )

    # Comprehensions

    def _list_comprehension(self, node: ast.ListComp | ast.GeneratorExp, lenient: bool) -> Code:
        return closures.comprehension(self._loop(node, node.generators, [node.elt]), _as_it_is)

    def _set_comprehension(self, node: ast.SetComp, lenient: bool) -> Code:
        return closures.comprehension(self._loop(node, node.generators, [node.elt]), build_set)

    def _dict_comprehension(self, node: ast.DictComp, lenient: bool) -> Code:
        return closures.comprehension(self._loop(node, node.generators, [node.key, node.value]), build_dict)

    def _loop(
        self, node: ast.expr, generators: Sequence[ast.comprehension], produced: Sequence[ast.expr]
    ) -> Loop:
        """The loops of a comprehension, the outermost first; each iterable sees the variables of those before it."""
        generator, *inner = generators
        if generator.is_async:
            raise Refusal(node, "an async comprehension is not part of the expression language")
        items = self._code(generator.iter)
        self._scopes.append({})
        target = self._target(generator.target)
        test = self._all_of(generator.ifs)
        if inner:
            body = self._loop(node, inner, produced)
        else:
            body = closures.emission(self._codes(produced, lenient=True))
        self._scopes.pop()
        cost = 1 + sum(map(_steps, [*generator.ifs, *([inner[0].iter] if inner else produced)]))
        if not isinstance(generator.target, ast.Name):
            cost += STEPS_PER_UNPACKED * sum(
                isinstance(part, ast.expr) for part in ast.walk(generator.target)
            )
        return closures.loop(items, target, test, body, cost)

    def _all_of(self, tests: Sequence[ast.expr]) -> Code | None:
        codes = self._codes(tests, lenient=True)
        if not codes:
            return None
        return codes[0] if len(codes) == 1 else closures.logic(codes, operator.not_)

    def _target(self, target: ast.expr) -> Target:
        if isinstance(target, ast.Name):
            _refuse_private(target, target.id)
            if target.id in FUNCTIONS or target.id in CONSTANTS:
                raise Refusal(target, f"{target.id!r} is a word of the language and cannot be a variable")
            slot = self._scopes[-1][target.id] = self._new_slot()
            return slot
        if isinstance(target, (ast.Tuple, ast.List)):
            return [self._target(part) for part in target.elts]
        raise Refusal(target, "a loop variable must be a name")

    # Names

    def _new_slot(self) -> int:
        # Slot 0 holds the evaluation.
        self._slots += 1
        return self._slots

    def _variable(self, name: str) -> int | None:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return None

    def _is_nodes(self, node: ast.expr) -> bool:
        if not isinstance(node, ast.Name) or node.id != "nodes":
            return False
        return node.id not in self._extra_names and self._variable(node.id) is None


_HANDLERS: dict[type[ast.expr], Callable[..., Code]] = {
    ast.Constant: Compiler._constant,
    ast.Name: Compiler._name,
    ast.Attribute: Compiler._attribute,
    ast.Subscript: Compiler._subscript,
    ast.List: Compiler._list,
    ast.Tuple: Compiler._tuple,
    ast.Set: Compiler._set,
    ast.Dict: Compiler._dict,
    ast.IfExp: Compiler._choice,
    ast.BoolOp: Compiler._logic,
    ast.UnaryOp: Compiler._unary,
    ast.BinOp: Compiler._binary,
    ast.Compare: Compiler._compare,
    ast.Call: Compiler._call,
    ast.ListComp: Compiler._list_comprehension,
    ast.GeneratorExp: Compiler._list_comprehension,
    ast.SetComp: Compiler._set_comprehension,
    ast.DictComp: Compiler._dict_comprehension,
}


def _as_it_is(_: Evaluation, values: list[Any]) -> list[Any]:
    return values


def _refuse_private(node: ast.expr, name: str) -> None:
    if name.startswith("_"):
        raise Refusal(node, f"{name!r} begins with an underscore; such names cannot be read")


def _function_name(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        raise Refusal(node.func, f"methods cannot be called (.{node.func.attr}())")
    if not isinstance(node.func, ast.Name):
        raise Refusal(node.func, "only the functions of the language can be called")
    name = node.func.id
    if name not in FUNCTIONS:
        nearest = get_close_matches(name, FUNCTIONS, n=1)
        hint = f"did you mean {nearest[0]}()?" if nearest else f"known are {', '.join(FUNCTIONS)}"
        raise Refusal(node.func, f"unknown function {name!r}; {hint}")
    return name


def _is_null(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return node.id in CONSTANTS and CONSTANTS[node.id] is None
    return isinstance(node, ast.Constant) and node.value is None


def _is_singleton(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return node.id in CONSTANTS
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))


def _is_literal(node: ast.expr) -> bool:
    """Whether texts and numbers alone, written in the condition, make up this operand, be they in a list."""
    if isinstance(node, ast.UnaryOp):
        return _is_literal(node.operand)
    if isinstance(node, ast.BinOp):
        return _is_literal(node.left) and _is_literal(node.right)
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return all(map(_is_literal, node.elts))
    return isinstance(node, ast.Constant) and type(node.value) in (str, int, float)


def _only_against_null(node: ast.Compare, place: int) -> bool:
    """Is this operand compared with nothing but a literal null, and only for being equal to it?"""
    operands = [node.left, *node.comparators]
    neighbours = [(node.ops[place - 1], operands[place - 1])] if place else []
    if place < len(node.ops):
        neighbours.append((node.ops[place], operands[place + 1]))
    return all(isinstance(test, _NULL_TESTS) and _is_null(other) for test, other in neighbours)


def _steps(node: ast.expr) -> int:
    return sum(_STEPS.get(type(part), 1) for part in ast.walk(node) if isinstance(part, ast.expr))


def _count(least: int, most: int) -> str:
    if least == most:
        return f"{least} argument{'s' if least != 1 else ''}"
    return f"{least} to {most} arguments"
