"""What does an expression see of a stored value? What Python would, without the classes of users.

JSON data is itself. Numbers, dates and times, texts and bytes, tuples and sets of Python are what they are; models and
dataclasses are dicts of their fields, and members of Enums what `members` makes of them. Nothing needs to be registered:
of a class that this process does not know, an object with nothing but a value is that value.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Any

from graphflow.codec import TAG, encode, is_built_in, rebuilt, registered_type, stored_data
from graphflow.errors import CorruptState, UnknownType
from graphflow.expressions.members import member_or_value

_COLLECTIONS: dict[type, type] = {tuple: tuple, set: set, frozenset: frozenset}


def seen(text: str, key: str = "value") -> Any:
    """The value that is stored as `text`. CorruptState if it is none; `key` is where it stands."""
    data = stored_data(text, key)
    return _seen(data, key) if TAG in text else data


def seen_value(value: Any, key: str = "value") -> Any:
    """A value that is not stored yet, as it will be seen when it is. UnstorableValue."""
    return seen(encode(value, key), key)


def _seen(data: Any, key: str) -> Any:
    if type(data) is list:
        return [_seen(member, key) for member in data]
    if type(data) is not dict:
        return data
    if TAG not in data:
        return _seen_members(data, key)
    name = data[TAG]
    cls = registered_type(name) if isinstance(name, str) else None
    if name == "dict" or (cls is not None and (is_built_in(cls) or issubclass(cls, Enum))):
        if "value" not in data:
            raise CorruptState(key, f"an object tagged {name} lacks its value")
        return _seen_single(cls, data, key)
    if cls is None and data.keys() == {TAG, "value"}:
        return _seen(data["value"], key)
    return _seen_members({place: member for place, member in data.items() if place != TAG}, key)


def _seen_members(data: dict[str, Any], key: str) -> dict[str, Any]:
    return {place: _seen(member, key) for place, member in data.items()}


def _seen_single(cls: type | None, data: dict[str, Any], key: str) -> Any:
    """What is stored as one value: a dict that has the key $type itself, a built-in type, a member of an Enum."""
    content = data["value"]
    if cls is None:
        if type(content) is not dict:
            raise CorruptState(key, "an object tagged dict lacks its value")
        return _seen_members(content, key)
    if issubclass(cls, Enum):
        return _seen_member(data, key)
    if type(content) is list and cls in _COLLECTIONS:
        members = _seen(content, key)
        try:
            return _COLLECTIONS[cls](members)
        except TypeError:
            return members  # of a set of models, which are dicts here
    is_collection = issubclass(cls, Collection) and not issubclass(cls, str | bytes)
    return _seen(content, key) if is_collection and type(content) in (list, dict) else rebuilt(data, key)


def _seen_member(data: dict[str, Any], key: str) -> Any:
    value = _seen(data["value"], key)
    try:
        member = rebuilt(data, key)
    except (CorruptState, UnknownType):
        return value  # of a member that the Enum has no more
    return member_or_value(member, value)
