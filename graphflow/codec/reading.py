"""How does stored text come back as a value, or as plain data for expressions?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from graphflow.codec.table import EXTRA, INSTANCE_MARKS, TAG, Unfitting, by_name
from graphflow.errors import ChangedType, CorruptState, UnknownType

_NESTED = frozenset({list, dict})


def decode(text: str, key: str = "value") -> Any:
    """Return a fresh Python value as it was written. Instances of registered types get the fields that they had: no
    validator and no constructor is run.

    Raises `UnknownType` for a tag that nothing is registered under, `ChangedType` if the class has lost or gained
    fields so that they do not fit, `CorruptState` for text that `encode` did not write.
    """
    data = _parsed(text, key)
    return _rebuilt(data, key) if TAG in text else data


def decode_all(texts: Sequence[str], key: str = "value") -> list[Any]:
    """`decode` each; together, which takes a third of the time. CorruptState also if one is no value or several."""
    values: list[Any] = decode(f"[{','.join(texts)}]", key)
    if len(values) != len(texts):
        raise CorruptState(key, f"{len(texts)} texts hold {len(values)} values")
    return values


def decode_plain(text: str, key: str = "value") -> Any:
    """Return plain JSON data, as expressions see it. Needs no registration.

    Models and dataclasses become dicts of their fields; sets and tuples lists; dates, times, UUIDs and Decimals
    text; bytes base64 text; a timedelta its seconds; an Enum member its value.
    """
    data = _parsed(text, key)
    return _plain(data, key) if TAG in text else data


def stored_data(text: str, key: str = "value") -> Any:
    """The JSON data of a text, its tags as they are. CorruptState."""
    return _parsed(text, key)


def rebuilt(data: Any, key: str = "value") -> Any:
    """The value of JSON data with tags, which it uses up. UnknownType, ChangedType, CorruptState."""
    return _rebuilt(data, key)


def fields_of(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of an object that is an instance, extra ones among them, as they are stored."""
    extra = data.get(EXTRA)
    fields = {place: member for place, member in data.items() if place != TAG and place not in INSTANCE_MARKS}
    return fields | extra if isinstance(extra, dict) else fields


def _parsed(text: str, key: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError) as exc:
        raise CorruptState(key, f"it is not JSON ({exc})") from exc


def _rebuilt(data: Any, key: str) -> Any:
    if type(data) is list:
        return [_rebuilt(member, key) if type(member) in _NESTED else member for member in data]
    if type(data) is not dict:
        return data
    if TAG not in data:
        return _rebuilt_members(data, key)
    name = data.pop(TAG)
    if name == "dict":
        return _rebuilt_members(_content(name, data, key), key)
    stored = by_name.get(name) if isinstance(name, str) else None
    if stored is None:
        raise UnknownType(key, str(name))
    if stored.is_single_value:
        _content(name, data, key)
    members = _rebuilt_members(data, key)
    try:
        return stored.read(members)
    except Unfitting as exc:
        raise ChangedType(key, name, str(exc)) from exc
    except Exception as exc:
        raise CorruptState(key, f"{name} does not accept what is stored ({_brief(exc)})") from exc


def _rebuilt_members(data: Any, key: str) -> dict[str, Any]:
    return {
        name: _rebuilt(member, key) if type(member) in _NESTED else member for name, member in data.items()
    }


def _plain(data: Any, key: str) -> Any:
    if type(data) is list:
        return [_plain(member, key) for member in data]
    if type(data) is not dict:
        return data
    name = data.pop(TAG, None)
    if name is None or name == "dict":
        members = data if name is None else _content("dict", data, key)
        return {place: _plain(member, key) for place, member in members.items()}
    stored = by_name.get(name) if isinstance(name, str) else None
    # Of a type that is not registered here, an object with nothing but `value` is taken for an Enum member.
    is_single_value = data.keys() == {"value"} if stored is None else stored.is_single_value
    if is_single_value:
        return _plain(_content(name, data, key), key)
    fields = {place: _plain(member, key) for place, member in data.items() if place not in INSTANCE_MARKS}
    extra = _plain(data.get(EXTRA), key)
    return fields | extra if isinstance(extra, dict) else fields


def _content(name: str, data: dict[str, Any], key: str) -> Any:
    if "value" not in data or (name == "dict" and type(data["value"]) is not dict):
        raise CorruptState(key, f"an object tagged {name} lacks its value")
    return data["value"]


def _brief(exc: Exception) -> str:
    """What went wrong, without the payload that pydantic puts into its message."""
    if isinstance(exc, ValidationError):
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in errors[:3])
    return f"{type(exc).__name__}: {exc}"
