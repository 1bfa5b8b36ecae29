"""Which classes of users are stored, under which names?

A model, dataclass or Enum by `register_type`, and with it those that the annotations of its fields name. What cannot come
back as it was is refused here already, as far as a class tells: the field or the member is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from graphflow.codec.annotations import annotations_of, classes_in, is_only, problem_with
from graphflow.codec.built_in import BUILT_IN
from graphflow.codec.instances import (
    check_layout,
    dataclass_reader,
    dataclass_writer,
    model_reader,
    model_writer,
)
from graphflow.codec.reading import decode
from graphflow.codec.table import OWN_PREFIX, TAG, StoredType, Unfitting, by_name, writers
from graphflow.codec.writing import encode, tagged_fields
from graphflow.errors import InvalidName, UnstorableValue

T = TypeVar("T")


@overload
def register_type(cls: type[T], *, name: str | None = None) -> type[T]: ...
@overload
def register_type(cls: None = None, *, name: str | None = None) -> Callable[[type[T]], type[T]]: ...
def register_type(
    cls: type[T] | None = None, *, name: str | None = None
) -> type[T] | Callable[[type[T]], type[T]]:
    """Let values of a pydantic model, dataclass or Enum be stored, under `name` (default: the class's name).

    A decorator, with or without arguments, or a call. Stored data holds the name, not the place of the class: the
    class may move, the name must stay. A class of the same module and qualified name replaces the one before (a
    notebook cell run again). Models, dataclasses and Enums that are named in the annotations of its fields are
    registered with it, under their own names, unless they are already.

    Values come back as they were, and nothing is validated: fields, `model_fields_set`, private and other attributes.
    Left out are cached properties, and a model's fields with `exclude=True` that have a default, which they get again.

    Raises `InvalidName` if another class or a built-in type has the name, TypeError if values of the class, or of one of
    its fields, cannot be stored.
    """
    if cls is None:
        return lambda decorated: register_type(decorated, name=name)
    if not isinstance(cls, type):
        raise TypeError(f"register_type takes a class, not {cls!r}")
    found: dict[type, StoredType] = {}
    _collect(cls, cls.__name__ if name is None else name, found, "")
    for stored in found.values():
        by_name[stored.name] = stored
        writers[stored.cls] = stored.write
    return cls


def _collect(cls: type, name: str, found: dict[type, StoredType], holder: str) -> None:
    """Into `found` this class and those that its fields name. `holder` is the field by which it was come by."""
    stored = found[cls] = _stored_type(cls, name)
    _check_name_is_free(stored, found, holder)
    if issubclass(cls, Enum):
        return
    for field, annotation, default in annotations_of(cls):
        if problem := problem_with(annotation, default):
            raise TypeError(f"{cls.__name__}.{field} cannot be stored: {problem}")
        for inner in classes_in(annotation):
            if inner in found or inner in writers:
                continue
            along = dict(found)
            try:
                _collect(inner, inner.__name__, along, f"{cls.__name__}.{field}")
            except TypeError as error:
                # A field that may hold something else does; what it may not hold is refused when it does.
                if is_only(inner, annotation, default):
                    raise TypeError(f"{cls.__name__}.{field} cannot be stored: {error}") from error
            else:
                found.update(along)


def _stored_type(cls: type, name: str) -> StoredType:
    if issubclass(cls, Enum):
        _check_members(cls)
        return StoredType(name, cls, _enum_writer(name), _enum_reader(cls, name), is_single_value=True)
    if issubclass(cls, BaseModel):
        check_layout(cls)
        return StoredType(name, cls, model_writer(cls, name), model_reader(cls, name), is_single_value=False)
    if dataclasses.is_dataclass(cls):
        check_layout(cls)
        write, read = dataclass_writer(cls, name), dataclass_reader(cls, name)
        return StoredType(name, cls, write, read, is_single_value=False)
    raise TypeError(f"{cls.__name__} is no pydantic model, dataclass (write @register_type above it) or Enum")


def _check_name_is_free(stored: StoredType, found: dict[type, StoredType], holder: str) -> None:
    others = [by_name.get(stored.name), *(each for each in found.values() if each.name == stored.name)]
    taken = None
    if not stored.name or stored.name in {"dict", *BUILT_IN}:
        taken = "the codec itself uses it"
    elif stored.name.startswith(OWN_PREFIX) and not stored.cls.__module__.startswith(OWN_PREFIX):
        taken = "graphflow's own types are called so"
    elif other := next((each.cls for each in others if each and _home(each.cls) != _home(stored.cls)), None):
        taken = f"{other.__module__}.{other.__qualname__} has that name"
    if taken is not None:
        choice = "choose another with register_type(name=...)"
        if holder:
            choice = f"it came with the field {holder}; register it before that, under another with register_type(name=...)"
        raise InvalidName("type", stored.name, f"{taken}; {choice}")


def _home(cls: Any) -> Any:
    """Where a class is written, and of a generic model what it is of: Box[a.Part] is not Box[b.Part]."""
    arguments = getattr(cls, "__pydantic_generic_metadata__", {}).get("args", ())
    return (
        getattr(cls, "__module__", ""),
        getattr(cls, "__qualname__", repr(cls)),
        tuple(map(_home, arguments)),
    )


# Enums


def _check_members(cls: type[Enum]) -> None:
    """TypeError if a member would not be found again by its value."""
    for name, member in cls.__members__.items():
        try:
            is_found = cls(decode(encode(member.value))) is member
        except (UnstorableValue, ValueError) as error:
            raise TypeError(f"{cls.__name__}.{name} cannot be stored: {error}") from error
        if not is_found:
            raise TypeError(f"{cls.__name__}.{name} cannot be stored: its value is not equal to itself")


def _enum_writer(name: str) -> Callable[[Enum, int], dict[str, Any]]:
    def write(member: Enum, depth: int) -> dict[str, Any]:
        return tagged_fields({"value": member.value}, depth, into={TAG: name})

    return write


def _enum_reader(cls: type[Enum], name: str) -> Callable[[dict[str, Any]], Enum]:
    def read(data: dict[str, Any]) -> Enum:
        try:
            return cls(data["value"])
        except ValueError:
            raise Unfitting(
                f"it has no member with the value that is stored; keep that until no run holds a {name} that has it"
            ) from None

    return read
