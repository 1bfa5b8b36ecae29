"""Which types of Python itself are stored without being registered, and as what?"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from graphflow.codec.table import StoredType, by_name, writers
from graphflow.codec.writing import Refused, tagged_members, tagged_value


def _write_tuple(value: tuple[Any, ...], depth: int) -> dict[str, Any]:
    return tagged_value("tuple", tagged_members(enumerate(value), depth))


def _write_set(name: str) -> Callable[[Iterable[Any], int], dict[str, Any]]:
    def write(value: Iterable[Any], depth: int) -> dict[str, Any]:
        members = tagged_members(((None, member) for member in value), depth, step="{{…}}")
        return tagged_value(name, sorted(members, key=to_json))

    return write


def _write_scalar(cls: type, to_value: Callable[[Any], Any]) -> Callable[[Any, int], Any]:
    return lambda value, _depth: tagged_value(cls.__name__, to_value(value))


def _seconds(value: timedelta) -> float:
    seconds = value.total_seconds()
    if timedelta(seconds=seconds) != value:
        raise Refused(value, "a timedelta of centuries with microseconds; store it as text or integers")
    return seconds


def _decimal_text(value: Decimal) -> str:
    if not value.is_finite():
        raise Refused(value, "NaN and Infinity are not JSON; store None or a text instead")
    return str(value)


def _base64_text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _base64_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _from_list(cls: type) -> Callable[[Any], Any]:
    def read(members: Any) -> Any:
        if type(members) is not list:
            raise TypeError("its value is no list")
        return cls(members)

    return read


BUILT_IN = {
    cls.__name__: StoredType(cls.__name__, cls, write, read, is_single_value=True)
    for cls, write, read in (
        (datetime, _write_scalar(datetime, datetime.isoformat), datetime.fromisoformat),
        (date, _write_scalar(date, date.isoformat), date.fromisoformat),
        (time, _write_scalar(time, time.isoformat), time.fromisoformat),
        (timedelta, _write_scalar(timedelta, _seconds), lambda seconds: timedelta(seconds=seconds)),
        (UUID, _write_scalar(UUID, str), UUID),
        (Decimal, _write_scalar(Decimal, _decimal_text), Decimal),
        (bytes, _write_scalar(bytes, _base64_text), _base64_bytes),
        (tuple, _write_tuple, _from_list(tuple)),
        (set, _write_set("set"), _from_list(set)),
        (frozenset, _write_set("frozenset"), _from_list(frozenset)),
    )
}

by_name |= BUILT_IN
writers |= {stored.cls: stored.write for stored in BUILT_IN.values()}
