"""What does the annotation of a field say: which classes its values may be of, and whether any of them can be stored?

A claim is made only where nothing else is possible: of what is abstract, has subclasses or is turned into something else
by a validator nothing is known until there is a value.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Awaitable, Iterator
from collections.abc import Callable as AbstractCallable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from graphflow.codec.instances import stored_fields
from graphflow.codec.refusals import instead_of, is_registrable, is_secret
from graphflow.codec.table import writers


def annotations_of(cls: Any) -> Iterator[tuple[str, Any, Any]]:
    """Of each stored field of a model or dataclass its name, its annotation and its default, or a value of no stored type."""
    if issubclass(cls, BaseModel):
        if not cls.__pydantic_complete__:
            cls.model_rebuild(raise_errors=False)
        validated = _validated_fields(cls)
        for name, field in stored_fields(cls).items():
            is_changed = name in validated or "*" in validated or any(map(_changes, field.metadata))
            yield name, Any if is_changed else field.annotation, field.default
        return
    hints = _hints(cls)
    for each in dataclasses.fields(cls):
        yield each.name, hints.get(each.name, each.type), each.default


def classes_in(annotation: Any) -> Iterator[type]:
    """Models, dataclasses and Enums that it names."""
    for leaf in _leaves(annotation):
        if is_registrable(leaf):
            yield leaf


def is_only(cls: type, annotation: Any, default: Any) -> bool:
    """Whether a field can hold nothing but an instance of this class."""
    return _resolved(annotation) is cls and type(default) not in writers


def problem_with(annotation: Any, default: Any) -> str | None:
    """Why no value of it can be stored; None if one might be."""
    if type(default) in writers:
        return None
    return _problem(annotation)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError):
        # Names that are not there yet, or only where the class was written.
        return {}


def _validated_fields(cls: Any) -> set[str]:
    decorators = cls.__pydantic_decorators__
    return {
        name
        for found in (decorators.field_validators, decorators.validators)
        for each in found.values()
        for name in each.info.fields
    }


def _changes(metadata: Any) -> bool:
    """Whether what is beside an annotation may turn a value into one of another type."""
    return hasattr(metadata, "func") or hasattr(metadata, "__get_pydantic_core_schema__")


def _parts(annotation: Any) -> list[Any] | None:
    """The annotations that a value's type is one of, None if this is a single one."""
    if get_origin(annotation) in (Union, types.UnionType):
        return list(get_args(annotation))
    return None


def _resolved(annotation: Any) -> Any:
    """Without names for annotations and what is beside them; Any where nothing is known."""
    while True:
        if isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif get_origin(annotation) is Annotated:
            annotation, *beside = get_args(annotation)
            if any(map(_changes, beside)):
                return Any
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation


def _leaves(annotation: Any) -> Iterator[type]:
    annotation = _resolved(annotation)
    if isinstance(annotation, type) and get_origin(annotation) is None:
        yield annotation
        return
    if get_origin(annotation) in (Literal, AbstractCallable, type):
        return
    for part in get_args(annotation):
        yield from _leaves(part)


def _problem(annotation: Any) -> str | None:
    annotation = _resolved(annotation)
    parts = _parts(annotation)
    if parts is not None:
        problems = [_problem(part) for part in parts]
        return problems[0] if all(problems) else None
    origin = get_origin(annotation)
    if origin is Literal:
        return None
    if origin is None or origin in (type, AbstractCallable):
        return _problem_of_class(origin or annotation)
    members = get_args(annotation)
    if origin is dict and len(members) == 2 and members[0] in (int, float, bool, bytes, tuple):
        return f"its keys are of type {members[0].__name__}; JSON keys are text: make them str, or it a list of pairs"
    if origin in (list, set, frozenset, tuple, dict):
        problems = [_problem(member) for member in members if member is not Ellipsis]
        return next((problem for problem in problems if problem), None)
    return _problem_of_class(origin)


def _problem_of_class(cls: Any) -> str | None:
    if not isinstance(cls, type) or cls in writers or cls is object:
        return None
    name = cls.__name__
    if is_secret(cls):
        return f"a {name} is secret, and state is readable; store a reference to it"
    if is_registrable(cls):
        return None
    if issubclass(cls, Awaitable) or cls is AbstractCallable or cls is type:
        return f"a {name} lives in this process only; store what it is made from"
    is_open = (
        inspect.isabstract(cls)
        or getattr(cls, "_is_protocol", False)
        or cls.__module__ in ("collections.abc", "typing", "numbers")
        or hasattr(cls, "__get_pydantic_core_schema__")
        or bool(cls.__subclasses__())
    )
    if is_open:
        return None
    instead = instead_of(cls)
    if instead is not None:
        return f"a value of type {name} would not come back as one; give it the type of {instead}"
    return f"a {name} is neither JSON nor a model, dataclass or Enum; make it one of these"
