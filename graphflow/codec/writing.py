"""How does a value become text? A quick look lets plain JSON pass; all else is written with tags, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from graphflow.codec.refusals import Refused
from graphflow.codec.table import TAG, writers
from graphflow.errors import UnstorableValue

#: Lists, dicts and registered objects inside each other; a level takes at most two of the 200 that a reader accepts.
MAX_DEPTH = 90

#: Integers are stored below 10 to this power: JSON readers stop near 4,300 characters.
MAX_INT_DIGITS = 4000


def encode(value: Any, key: str = "value") -> str:
    """Return `value` as compact JSON text. Raises `UnstorableValue` with `key`, type and path of what would not come
    back as it is: of what JSON has not and nobody has registered, subclasses of str, int, float, list and dict included.
    """
    if _is_plain(value):
        try:
            return to_json(value).decode()
        except PydanticSerializationError:
            pass  # a lone surrogate; the careful way finds where
    return to_json(tagged_data(value, key)).decode()


def json_data(value: Any, key: str) -> Any:
    """`value` as JSON data with tags; plain JSON is handed back as it is, not copied. UnstorableValue."""
    return value if _is_plain(value) else tagged_data(value, key)


def tagged_data(value: Any, key: str) -> Any:
    """`value` as JSON data with tags, looked at all over. UnstorableValue."""
    try:
        return _tagged(value, 0)
    except Refused as refused:
        raise UnstorableValue(key, refused.type_name, refused.shortened_path(), refused.reason) from None


def is_plain(value: Any) -> bool:
    """Whether the value is JSON data of exact built-in types, which comes back as it is."""
    return _is_plain(value)


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


def _tagged(value: Any, depth: int) -> Any:
    """`value` as JSON data with tags. `depth` counts the lists, dicts and objects around it."""
    write = writers.get(type(value)) or _writer_of_frozen(type(value))
    if write is None or depth > MAX_DEPTH:
        raise _refusal(value, depth)
    return write(value, depth)


def _writer_of_frozen(cls: type) -> Callable[[Any, int], Any] | None:
    """Of a date or datetime as freezegun makes them in the place of Python's, the writer of Python's; else None."""
    if cls.__module__.partition(".")[0] != "freezegun":
        return None
    return next((writers[base] for base in cls.__mro__ if base in writers), None)


def _refusal(value: Any, depth: int) -> Refused:
    if depth > MAX_DEPTH:
        return Refused(value, f"it is nested deeper than {MAX_DEPTH} levels, or contains itself")
    return Refused(value)


def tagged_members(members: Iterable[Any], depth: int, step: str = "[{!r}]") -> list[Any]:
    """Each as JSON data; its place among them is shown as `step` in the path of a refusal."""
    tagged: list[Any] = []
    depth += 1
    try:
        for member in members:
            write = writers.get(type(member)) or _writer_of_frozen(type(member))
            if write is None or depth > MAX_DEPTH:
                raise _refusal(member, depth)
            tagged.append(write(member, depth))
    except Refused as refused:
        refused.path = step.format(len(tagged)) + refused.path
        raise
    return tagged


def tagged_fields(
    fields: Mapping[str, Any], depth: int, step: str = ".{}", into: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The same of the values of a dict, into that of an object if one is given; their names are the places."""
    tagged = {} if into is None else into
    depth += 1
    name = None
    try:
        for name, member in fields.items():
            write = writers.get(type(member)) or _writer_of_frozen(type(member))
            if write is None or depth > MAX_DEPTH:
                raise _refusal(member, depth)
            tagged[name] = write(member, depth)
    except Refused as refused:
        refused.path = step.format(name) + refused.path
        raise
    return tagged


def _write_as_is(value: Any, _depth: int) -> Any:
    return value


def _write_str(value: str, _depth: int) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(value, "the text holds a lone surrogate, which UTF-8 has not") from None
    return value


def _write_int(value: int, _depth: int) -> int:
    if not _INT_FLOOR < value < _INT_LIMIT:
        raise Refused(value, f"an integer of more than {MAX_INT_DIGITS:,} digits; store it as bytes")
    return value


def _write_float(value: float, _depth: int) -> float:
    if not math.isfinite(value):
        raise Refused(value, "NaN and Infinity are not JSON; store None or a text instead")
    return value


def _write_list(value: list[Any], depth: int) -> list[Any]:
    return tagged_members(value, depth)


def write_dict(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    """The members of any dict, tagged as one where it has the key of tags itself."""
    for name in value:
        if type(name) is not str:
            kind = type(name).__name__
            raise Refused(name, f"a dict key is of type {kind}; JSON keys are text: convert it")
        _write_str(name, depth)
    data = tagged_fields(value, depth, "[{!r}]")
    return tagged_value("dict", data) if TAG in data else data


def place_in_set(data: Any) -> str:
    """The text by which members of a set are sorted: the same whichever library writes them."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def tagged_value(name: str, value: Any) -> dict[str, Any]:
    return {TAG: name, "value": value}


writers |= {
    str: _write_str,
    bool: _write_as_is,
    type(None): _write_as_is,
    int: _write_int,
    float: _write_float,
    list: _write_list,
    dict: write_dict,
}
