"""Why is a value not stored, and what can be stored in its place? Each advice can be followed as it is written."""

from __future__ import annotations

import dataclasses
import inspect
import io
import re
import types
from collections import deque
from collections.abc import Iterator, KeysView, ValuesView
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

from graphflow.codec.table import OWN_PREFIX, writers

#: Base class -> what to store of a value of it, or of a subclass. The first that fits counts.
_INSTEAD: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, "str(value)"),
    (int, "int(value)"),
    (float, "float(value)"),
    (list, "list(value)"),
    (dict, "dict(value)"),
    (tuple, "tuple(value)"),
    (set, "set(value)"),
    (frozenset, "frozenset(value)"),
    ((bytes, bytearray, memoryview), "bytes(value)"),
    (datetime, "datetime.fromisoformat(value.isoformat())"),
    (date, "date.fromisoformat(value.isoformat())"),
    (time, "time.fromisoformat(value.isoformat())"),
    (timedelta, "timedelta(value.days, value.seconds, value.microseconds)"),
    (Decimal, "Decimal(value)"),
    (UUID, "UUID(int=value.int)"),
    (complex, "[value.real, value.imag]"),
    (PurePath, "str(value)"),
    (tzinfo, "str(value)"),
    (re.Pattern, "value.pattern"),
    (types.MappingProxyType, "dict(value)"),
    ((range, deque, KeysView, ValuesView, AbstractSet), "list(value)"),
    (BaseException, "repr(value)"),
)

_SECRETS = (Secret, SecretStr, SecretBytes)
_LIVE = (
    io.IOBase,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
)


class Refused(Exception):
    """A value cannot be stored; on its way up it collects the path to itself."""

    def __init__(self, value: Any, reason: str | None = None) -> None:
        self.type_name = type(value).__name__
        self.path = ""
        self.reason = reason or _reason(value)

    def shortened_path(self) -> str:
        return self.path if len(self.path) <= 200 else f"{self.path[:199]}…"


def is_registrable(cls: type) -> bool:
    """Whether `register_type` takes classes of this kind."""
    return issubclass(cls, Enum | BaseModel) or dataclasses.is_dataclass(cls)


def is_secret(cls: type) -> bool:
    return issubclass(cls, _SECRETS)


def _reason(value: Any) -> str:
    cls = type(value)
    name = cls.__name__
    if is_secret(cls):
        return f"a {name} is secret, and state is readable; store a reference to it"
    if isinstance(value, Enum):
        return f"the Enum {name} is not registered; register_type({name}), or store its value"
    if (own := refusal_of_own_type(cls)) is not None:
        return own
    if is_registrable(cls):
        return f"a value of type {name} is neither JSON nor registered; register_type({name})"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"{name} is a namedtuple; store tuple(value) or value._asdict()"
    if inspect.isawaitable(value):
        return f"a {name} is still to be awaited; store what it gives"
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return f"a {name} can be gone through once; store a list of what it yields"
    instead = instead_of(cls)
    if instead is not None:
        return f"a value of type {name} would not come back as one; store {instead}"
    if inspect.isroutine(value):
        return "a function is no value; was it meant to be called?"
    if callable(value) or isinstance(value, _LIVE):
        return f"a {name} lives in this process only; store what it is made from"
    return (
        f"a value of type {name} is neither JSON nor registered; convert it, or make {name} a dataclass or pydantic "
        "model and register that"
    )


def refusal_of_type(cls: type) -> str | None:
    """Why no value of the class can be stored, with the way out; None if one can, if it is of a subclass."""
    if cls in writers:
        return None
    try:
        if any(issubclass(stored, cls) for stored in writers):
            return None
    except TypeError:
        return None  # nobody can say what its subclasses are
    if getattr(cls, "__pydantic_generic_metadata__", {}).get("origin") in writers:
        return None
    name = cls.__name__
    if is_secret(cls):
        return f"a {name} is secret, and state is readable; store a reference to it"
    if (own := refusal_of_own_type(cls)) is not None:
        return own
    if is_registrable(cls):
        return f"{name} is not registered, so none can be stored; write @register_type above class {name}"
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return f"{name} is a namedtuple, which cannot be stored; return tuple(value) or value._asdict()"
    if (instead := instead_of(cls)) is not None:
        return f"a value of type {name} would not come back as one; return {instead}"
    return f"{name} is neither JSON nor a type that can be registered; convert it"


def refusal_of_own_type(cls: type) -> str | None:
    """Why a type of graphflow's that is not registered is not stored; None if it is none of them."""
    if not cls.__module__.startswith(OWN_PREFIX):
        return None
    name = cls.__name__
    return f"{name} is graphflow's own and holds more than values; store what you need of it, such as its status or result"


def instead_of(cls: type) -> str | None:
    """What to store of a `value` of this class, as Python; None if nothing is known."""
    if cls.__module__.partition(".")[0] == "numpy":
        return "value.tolist()" if cls.__name__ in {"ndarray", "matrix"} else "value.item()"
    if (cls.__module__, cls.__name__) == ("fractions", "Fraction"):
        return "[value.numerator, value.denominator]"
    for base, instead in _INSTEAD:
        if issubclass(cls, base):
            return instead
    if issubclass(cls, Iterator):
        return "list(value)"
    return None
