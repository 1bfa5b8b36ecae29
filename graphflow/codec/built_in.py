"""Which types of Python itself are stored without being registered, and as what?

An object tagged with the type's name and one `value` that says it to people and to expressions. What the type carries
beside that has a key of its own, only where it is there:

    {"$type":"datetime","value":"2026-10-25T02:30:00+01:00","$zone":"Europe/Berlin","$fold":1}
    {"$type":"timedelta","value":8.64e+13,"$exact":[999999999,86399,999999]}    days, seconds, microseconds
    {"$type":"defaultdict","value":{"a":[1]},"$factory":"list"}
"""

from __future__ import annotations

import base64
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from graphflow.codec.refusals import Refused
from graphflow.codec.table import StoredType, Unfitting, by_name, writers
from graphflow.codec.writing import place_in_set, tagged_members, tagged_value, write_dict

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

#: What a defaultdict may make: looked up, so that stored text cannot choose code to run.
_FACTORIES: dict[str, type] = {cls.__name__: cls for cls in (list, dict, set, int, float, str, bool, tuple)}


# Collections


def _write_tuple(value: tuple[Any, ...], depth: int) -> dict[str, Any]:
    return tagged_value("tuple", tagged_members(value, depth))


def _write_set(name: str) -> Callable[[Iterable[Any], int], dict[str, Any]]:
    def write(value: Iterable[Any], depth: int) -> dict[str, Any]:
        members = tagged_members(value, depth, step="{{…}}")
        return tagged_value(name, sorted(members, key=place_in_set))

    return write


def _read_members(cls: type) -> Callable[[dict[str, Any]], Any]:
    def read(data: dict[str, Any]) -> Any:
        if type(data["value"]) is not list:
            raise TypeError("its value is no list")
        return cls(data["value"])

    return read


def _write_mapping(name: str) -> Callable[[dict[Any, Any], int], dict[str, Any]]:
    # One level more than the dict itself would take: the object around it.
    return lambda value, depth: tagged_value(name, write_dict(value, depth + 1))


def _write_defaultdict(value: defaultdict[Any, Any], depth: int) -> dict[str, Any]:
    data = tagged_value("defaultdict", write_dict(value, depth + 1))
    factory = value.default_factory
    if factory is not None:
        name = getattr(factory, "__name__", "")
        if _FACTORIES.get(name) is not factory:
            known = ", ".join(_FACTORIES)
            raise Refused(value, f"the factory of this defaultdict is none of {known}; store dict(value)")
        data["$factory"] = name
    return data


def _read_mapping(make: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    def read(data: dict[str, Any]) -> Any:
        if type(data["value"]) is not dict:
            raise TypeError("its value is no object")
        return make(data["value"], data)

    return read


def _defaultdict(content: dict[str, Any], data: dict[str, Any]) -> Any:
    return defaultdict(_FACTORIES[data["$factory"]] if "$factory" in data else None, content)


# Times


def _write_time(cls: type) -> Callable[[Any, int], dict[str, Any]]:
    def write(value: Any, _depth: int) -> dict[str, Any]:
        data = tagged_value(cls.__name__, value.isoformat())
        if value.tzinfo is not None and value.tzinfo is not UTC:
            data |= _zone(value)
        if value.fold:
            data["$fold"] = 1
        return data

    return write


def _zone(value: Any) -> dict[str, str]:
    """What the text of a date or time does not say of its zone."""
    zone = value.tzinfo
    if type(zone) is timezone:
        name = zone.tzname(None)
        return {} if name == timezone(zone.utcoffset(None)).tzname(None) else {"$tzname": name}
    if (type(zone).__module__, type(zone).__name__) == ("zoneinfo", "ZoneInfo") and zone.key:
        return {"$zone": zone.key}
    convert = (
        "value.astimezone(datetime.timezone.utc)"
        if isinstance(value, datetime)
        else "value.replace(tzinfo=None)"
    )
    raise Refused(
        value,
        f"its time zone is a {type(zone).__name__}, and what comes back is a datetime.timezone or a ZoneInfo with a "
        f"key; use one of these, or store {convert}",
    )


def _read_time(cls: Any) -> Callable[[dict[str, Any]], Any]:
    def read(data: dict[str, Any]) -> Any:
        value = cls.fromisoformat(data["value"])
        if "$zone" in data:
            value = value.replace(tzinfo=_zone_info(data["$zone"]))
        elif "$tzname" in data:
            value = value.replace(tzinfo=timezone(value.utcoffset(), data["$tzname"]))
        return value.replace(fold=data["$fold"]) if "$fold" in data else value

    return read


def _zone_info(key: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(key)
    except (OSError, ValueError, LookupError):
        raise Unfitting(f"this machine knows no time zone {key!r}; pip install tzdata") from None


def _write_timedelta(value: timedelta, _depth: int) -> dict[str, Any]:
    seconds = value.total_seconds()
    data = tagged_value("timedelta", seconds)
    try:
        is_exact = timedelta(seconds=seconds) == value
    except OverflowError:
        is_exact = False
    if not is_exact:
        data["$exact"] = [value.days, value.seconds, value.microseconds]
    return data


def _read_timedelta(data: dict[str, Any]) -> timedelta:
    return timedelta(*data["$exact"]) if "$exact" in data else timedelta(seconds=data["value"])


# Scalars


def _write_scalar(cls: type, to_value: Callable[[Any], Any]) -> Callable[[Any, int], Any]:
    return lambda value, _depth: tagged_value(cls.__name__, to_value(value))


def _read_scalar(from_value: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda data: from_value(data["value"])


def _decimal_text(value: Decimal) -> str:
    if not value.is_finite():
        raise Refused(value, "NaN and Infinity are not JSON; store None or a text instead")
    return str(value)


def _base64_text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _base64_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


BUILT_IN = {
    cls.__name__: StoredType(cls.__name__, cls, write, read, is_single_value=True)
    for cls, write, read in (
        (datetime, _write_time(datetime), _read_time(datetime)),
        (date, _write_scalar(date, date.isoformat), _read_scalar(date.fromisoformat)),
        (time, _write_time(time), _read_time(time)),
        (timedelta, _write_timedelta, _read_timedelta),
        (UUID, _write_scalar(UUID, str), _read_scalar(UUID)),
        (Decimal, _write_scalar(Decimal, _decimal_text), _read_scalar(Decimal)),
        (bytes, _write_scalar(bytes, _base64_text), _read_scalar(_base64_bytes)),
        (tuple, _write_tuple, _read_members(tuple)),
        (set, _write_set("set"), _read_members(set)),
        (frozenset, _write_set("frozenset"), _read_members(frozenset)),
        (Counter, _write_mapping("Counter"), _read_mapping(lambda content, _: Counter(content))),
        (OrderedDict, _write_mapping("OrderedDict"), _read_mapping(lambda content, _: OrderedDict(content))),
        (defaultdict, _write_defaultdict, _read_mapping(_defaultdict)),
    )
}

by_name |= BUILT_IN
writers |= {stored.cls: stored.write for stored in BUILT_IN.values()}


def is_built_in(cls: type) -> bool:
    """Whether the class can be stored without being registered, under a tag of its own."""
    return cls.__name__ in BUILT_IN and BUILT_IN[cls.__name__].cls is cls
