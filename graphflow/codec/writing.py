"""How does a value become text? A quick look lets plain JSON pass; all else is written with tags, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from pydantic import Secret, SecretBytes, SecretStr
from pydantic_core import PydanticSerializationError, to_json

from graphflow.codec.table import TAG, writers
from graphflow.errors import UnstorableValue

#: Lists, dicts and registered objects inside each other; a level takes at most two of the 200 that a reader accepts.
MAX_DEPTH = 90

#: Integers are stored below 10 to this power: JSON readers stop near 4,300 characters.
MAX_INT_DIGITS = 4000


def encode(value: Any, key: str = "value") -> str:
    """Return `value` as compact JSON text. Raises `UnstorableValue` with `key`, type and path of what JSON has not.

    Subclasses of str, int, float, list and dict that are neither Enums nor registered are stored as those.
    """
    if _is_plain(value):
        try:
            return to_json(value).decode()
        except PydanticSerializationError:
            pass  # a lone surrogate; the careful way finds where
    try:
        return to_json(_tagged(value, 0)).decode()
    except Refused as refused:
        raise UnstorableValue(key, refused.type_name, refused.shortened_path(), refused.reason) from None


_PLAIN_ATOMS = frozenset({str, bool, type(None)})
_INT_LIMIT = 10**MAX_INT_DIGITS
_INT_FLOOR = -_INT_LIMIT


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether `value` is JSON of exact built-in types and needs no tag. Text is not looked at here."""
    kind: type = type(value)
    if kind in _PLAIN_ATOMS:
        return True
    if kind is int:
        return bool(_INT_FLOOR < value < _INT_LIMIT)
    if kind is float:
        return math.isfinite(value)
    if kind is list:
        members = value
    elif kind is dict:
        if TAG in value:
            return False
        for name in value:
            if type(name) is not str:
                return False
        members = value.values()
    else:
        return False
    if depth == MAX_DEPTH:
        return False
    # Short and long lists of numbers and texts are what maps return: no call for these, and no generator.
    for member in members:
        kind = type(member)
        if kind is int:
            if not _INT_FLOOR < member < _INT_LIMIT:
                return False
        elif kind not in _PLAIN_ATOMS and not _is_plain(member, depth + 1):
            return False
    return True


class Refused(Exception):
    """A value cannot be stored; on its way up it collects the path to itself."""

    def __init__(self, value: Any, reason: str | None = None) -> None:
        self.type_name = type(value).__name__
        self.path = ""
        self.reason = reason

    def shortened_path(self) -> str:
        return self.path if len(self.path) <= 200 else f"{self.path[:199]}…"


def _tagged(value: Any, depth: int) -> Any:
    """`value` as JSON data with tags. `depth` counts the lists, dicts and objects around it."""
    if depth > MAX_DEPTH:
        raise Refused(value, f"it is nested deeper than {MAX_DEPTH} levels, or contains itself")
    write = writers.get(type(value)) or _writer_of_unregistered(value)
    return write(value, depth)


def tagged_members(members: Iterable[tuple[Any, Any]], depth: int, step: str = "[{!r}]") -> list[Any]:
    """The second of each pair as JSON data; the first is its place, shown as `step` in the path of a refusal."""
    tagged = []
    place = None
    try:
        for place, member in members:  # noqa: B007 - a refusal names the place
            tagged.append(_tagged(member, depth + 1))
    except Refused as refused:
        refused.path = step.format(place) + refused.path
        raise
    return tagged


def _writer_of_unregistered(value: Any) -> Callable[[Any, int], Any]:
    name = type(value).__name__
    if isinstance(value, (Secret, SecretStr, SecretBytes)):
        raise Refused(value, f"a {name} is secret, and state is readable; store a reference to it")
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        raise Refused(value, f"{name} is a namedtuple; store tuple(value) or value._asdict()")
    if isinstance(value, Enum):
        raise Refused(value, f"the Enum {name} is not registered; register_type({name}), or store its value")
    for base in (str, int, float, list, dict):
        if isinstance(value, base):
            return writers[base]
    raise Refused(value)


def _write_as_is(value: Any, _depth: int) -> Any:
    return value


def _write_str(value: str, _depth: int) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(value, "the text holds a lone surrogate, which UTF-8 has not") from None
    return str.__str__(value)


def _write_int(value: int, _depth: int) -> int:
    if not _INT_FLOOR < value < _INT_LIMIT:
        raise Refused(value, f"an integer of more than {MAX_INT_DIGITS:,} digits; store it as bytes")
    return int.__index__(value)


def _write_float(value: float, _depth: int) -> float:
    if not math.isfinite(value):
        raise Refused(value, "NaN and Infinity are not JSON; store None or a text instead")
    return float.__float__(value)


def _write_list(value: list[Any], depth: int) -> list[Any]:
    return tagged_members(enumerate(value), depth)


def _write_dict(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    for name in value:
        if not isinstance(name, str) or isinstance(name, Enum):
            raise Refused(
                name, f"a dict key is of type {type(name).__name__}; JSON keys are text: convert it"
            )
    names = [_write_str(name, depth) for name in value]
    data = dict(zip(names, tagged_members(value.items(), depth), strict=True))
    return tagged_value("dict", data) if TAG in data else data


def tagged_value(name: str, value: Any) -> dict[str, Any]:
    return {TAG: name, "value": value}


writers |= {
    str: _write_str,
    bool: _write_as_is,
    type(None): _write_as_is,
    int: _write_int,
    float: _write_float,
    list: _write_list,
    dict: _write_dict,
}
