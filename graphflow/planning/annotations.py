"""Does a function say that it returns or takes values of a type that cannot be stored? Asked before anything is paid for.

A type is never registered by an annotation: its name in stored data is for people to choose, and whoever reads a run without
compiling its graph must know it, too. What might work is let pass: names that cannot be resolved, what another function
wraps, types of which a subclass is registered; of parameters all but models, dataclasses and Enums, since nothing is
converted to what they say.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any

from pydantic import BaseModel

from graphflow.codec import refusal_of_type

#: Forms around one type that say nothing of its values.
_AROUND = frozenset(
    getattr(typing, name)
    for name in ("Annotated", "Required", "NotRequired", "ReadOnly", "Final", "ClassVar")
    if hasattr(typing, name)
)
#: Of what these hold, only the last is a value, or only the first.
_LAST_IS_VALUE = (collections.abc.Mapping, collections.abc.Awaitable)
_FIRST_IS_VALUE = (collections.abc.Generator, collections.abc.AsyncGenerator)
_CONTAINERS = frozenset({"builtins", "collections", "collections.abc"})
_UNKNOWN: Any = object()


def result_problem(function: Callable[..., Any], name: str, *, yields: bool = False) -> str | None:
    """What is wrong with what the function says that it returns (or `yields`), as a phrase; None if nothing is."""
    annotation = _annotation(function, "return")
    reason = _refusal(annotation, _of_result, set())
    verb = "yields" if yields else "returns"
    return reason and f"function {name!r} {verb} {_shown(annotation)}: {reason}"


def process_problem(process: Callable[..., Any], name: str) -> str | None:
    """The same of a module class, whose dicts may hold what is not stored: a status, an error."""
    annotation = _annotation(process, "return")
    reason = _refusal(annotation, _of_result, set(), has_status=True)
    return reason and f"{name}.process returns {_shown(annotation)}: {reason}"


def parameter_problem(function: Callable[..., Any], name: str, parameter: str) -> str | None:
    """What is wrong with what the function says of a parameter that is given a stored value, as a phrase."""
    annotation = _annotation(function, parameter)
    reason = _refusal(annotation, _of_parameter, set())
    return reason and f"function {name!r} takes {parameter!r} as {_shown(annotation)}: {reason}"


def _annotation(function: Any, name: str) -> Any:
    """What the function says of a parameter or its result, with its strings resolved; _UNKNOWN if it does not."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = getattr(type(function), "__call__", None)  # noqa: B004
    if not inspect.isroutine(function) or hasattr(function, "__wrapped__"):
        return _UNKNOWN
    function = getattr(function, "__func__", function)
    try:
        annotation = inspect.get_annotations(function).get(name, _UNKNOWN)
        return annotation if annotation is _UNKNOWN else _resolved(annotation, function)
    except Exception:
        return _UNKNOWN


def _resolved(annotation: Any, function: Any) -> Any:
    def carrier() -> None:
        """Has the one annotation, so that another that cannot be resolved is no matter."""

    carrier.__annotations__ = {"value": annotation}
    names = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not set yet
            names[name] = cell.cell_contents
    return typing.get_type_hints(carrier, function.__globals__, names, include_extras=True)["value"]


_Leaf = Callable[[type], str | None]


def _refusal(annotation: Any, leaf: _Leaf, seen: set[int], *, has_status: bool = False) -> str | None:
    """Why no value of the type can be stored, or of a type that its values hold."""
    if id(annotation) in seen or annotation is _UNKNOWN:
        return None
    seen = seen | {id(annotation)}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        return _of_plain(annotation, leaf, seen, has_status=has_status)
    if origin in _AROUND:
        return _refusal(arguments[0], leaf, seen, has_status=has_status)
    if origin in (typing.Union, types.UnionType):
        inner = [
            _refusal(each, leaf, seen, has_status=has_status) for each in arguments if each is not type(None)
        ]
        # A parameter that may be something else may always be that.
        is_lenient = leaf is _of_parameter and None in inner
        return None if is_lenient else next(filter(None, inner), None)
    if origin is typing.Literal:
        return next(filter(None, (leaf(type(each)) for each in arguments)), None)
    if not isinstance(origin, type) or origin is type:
        return None
    if origin.__module__ not in _CONTAINERS:
        return leaf(origin)
    if issubclass(origin, collections.abc.Callable) or (has_status and issubclass(origin, dict)):  # type: ignore[arg-type]
        return None
    if issubclass(origin, _LAST_IS_VALUE):
        arguments = arguments[-1:]
    elif issubclass(origin, _FIRST_IS_VALUE):
        arguments = arguments[:1]
    return next(filter(None, (_refusal(each, leaf, seen) for each in arguments)), None)


def _of_plain(annotation: Any, leaf: _Leaf, seen: set[int], *, has_status: bool) -> str | None:
    """Of what has no arguments: a class, another name for a type, or a form that says nothing."""
    if typing.is_typeddict(annotation):
        if has_status:
            return None
        try:
            fields = typing.get_type_hints(annotation, include_extras=True).values()
        except Exception:
            return None
        return next(filter(None, (_refusal(each, leaf, seen) for each in fields)), None)
    if isinstance(annotation, type):
        return leaf(annotation)
    try:
        # A NewType, or `type Name = ...`.
        other = getattr(annotation, "__supertype__", None) or getattr(annotation, "__value__", None)
    except Exception:
        return None
    return None if other is None else _refusal(other, leaf, seen, has_status=has_status)


def _of_result(cls: type) -> str | None:
    is_vague = inspect.isabstract(cls) or getattr(cls, "_is_protocol", False) or cls.__module__ == "typing"
    return None if is_vague else refusal_of_type(cls)


def _of_parameter(cls: type) -> str | None:
    is_data = issubclass(cls, BaseModel) or dataclasses.is_dataclass(cls)
    # What is an Enum and a text or number, too, can be compared with the value that is stored.
    is_enum = issubclass(cls, Enum) and not issubclass(cls, str | int | float)
    return _of_result(cls) if is_data or is_enum else None


def _shown(annotation: Any) -> str:
    """As people write it: without the modules that names are from."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return re.sub(r"[\w.<>]+\.(?=\w)", "", str(annotation))
