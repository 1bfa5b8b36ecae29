"""How does a value become the text that Redis holds, and how does it come back?

As JSON, plus types that were registered by name. What JSON has is stored as it is; everything else is an object with
the key `$type`, readable with redis-cli:

    {"$type":"Report","title":"Tides","pages":[1,2]}             a model or dataclass, its fields inline
    {"$type":"datetime","value":"2026-11-20T08:30:00+00:00"}     a scalar, a collection or an Enum member
    {"$type":"dict","value":{"$type":"mine"}}                    a user's own dict that has the key $type

A tag is looked up among the registered names and never imported, so stored text cannot choose code to run. Equal
values of equal types give equal text: dicts keep their order, sets are sorted by the text of their members.
"""

from __future__ import annotations

import base64
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar, overload
from uuid import UUID

from pydantic import AliasChoices, BaseModel, RootModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from graphflow.errors import CorruptState, InvalidName, UnknownType, UnstorableValue

T = TypeVar("T")

#: Lists, dicts and registered objects inside each other; a level takes at most two of the 200 that a reader accepts.
MAX_DEPTH = 90

#: Integers are stored below 10 to this power: JSON readers stop near 4,300 characters.
MAX_INT_DIGITS = 4000

_TAG = "$type"
#: What the names of graphflow's own types begin with, and those of its modules.
_OWN_PREFIX = "graphflow."


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
    except _Refused as refused:
        raise UnstorableValue(key, refused.type_name, refused.shortened_path(), refused.reason) from None


def decode(text: str, key: str = "value") -> Any:
    """Return a fresh Python value with registered types rebuilt: models through validation, dataclasses through
    their constructor.

    Raises `UnknownType` for a tag that nothing is registered under, `CorruptState` for text that `encode` did not
    write or that the registered type no longer accepts.
    """
    data = _parsed(text, key)
    return _rebuilt(data, key) if _TAG in text else data


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
    return _plain(data, key) if _TAG in text else data


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
    notebook cell run again). Raises `InvalidName` if another class or a built-in type has the name, TypeError if the
    class cannot be stored. Only the fields of a class are stored, not its private attributes; a model's fields with
    `exclude=True` are left out if they have a default.
    """
    if cls is None:
        return lambda decorated: register_type(decorated, name=name)
    stored = _stored_type(cls, cls.__name__ if name is None else name)
    _check_name_is_free(stored)
    _by_name[stored.name] = stored
    _writers[cls] = stored.write
    return cls


# Writing: a quick look that lets plain JSON pass, then the careful way.


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
        if _TAG in value:
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


class _Refused(Exception):
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
        raise _Refused(value, f"it is nested deeper than {MAX_DEPTH} levels, or contains itself")
    write = _writers.get(type(value)) or _writer_of_unregistered(value)
    return write(value, depth)


def _tagged_members(members: Iterable[tuple[Any, Any]], depth: int, step: str = "[{!r}]") -> list[Any]:
    """The second of each pair as JSON data; the first is its place, shown as `step` in the path of a refusal."""
    tagged = []
    place = None
    try:
        for place, member in members:  # noqa: B007 - a refusal names the place
            tagged.append(_tagged(member, depth + 1))
    except _Refused as refused:
        refused.path = step.format(place) + refused.path
        raise
    return tagged


def _writer_of_unregistered(value: Any) -> Callable[[Any, int], Any]:
    name = type(value).__name__
    if isinstance(value, (Secret, SecretStr, SecretBytes)):
        raise _Refused(value, f"a {name} is secret, and state is readable; store a reference to it")
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        raise _Refused(value, f"{name} is a namedtuple; store tuple(value) or value._asdict()")
    if isinstance(value, Enum):
        raise _Refused(value, f"the Enum {name} is not registered; register_type({name}), or store its value")
    for base in (str, int, float, list, dict):
        if isinstance(value, base):
            return _writers[base]
    if (own := _refusal_of_own_type(type(value))) is not None:
        raise _Refused(value, own)
    if inspect.isroutine(value):
        raise _Refused(value, "a function is no value; was it meant to be called?")
    if inspect.isawaitable(value):
        raise _Refused(value, f"a {name} is still to be awaited; store what it gives")
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise _Refused(value, f"a {name} can be gone through once; store a list of what it yields")
    raise _Refused(value)


def _write_as_is(value: Any, _depth: int) -> Any:
    return value


def _write_str(value: str, _depth: int) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Refused(value, "the text holds a lone surrogate, which UTF-8 has not") from None
    return str.__str__(value)


def _write_int(value: int, _depth: int) -> int:
    if not _INT_FLOOR < value < _INT_LIMIT:
        raise _Refused(value, f"an integer of more than {MAX_INT_DIGITS:,} digits; store it as bytes")
    return int.__index__(value)


def _write_float(value: float, _depth: int) -> float:
    if not math.isfinite(value):
        raise _Refused(value, "NaN and Infinity are not JSON; store None or a text instead")
    return float.__float__(value)


def _write_list(value: list[Any], depth: int) -> list[Any]:
    return _tagged_members(enumerate(value), depth)


def _write_dict(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    for name in value:
        if not isinstance(name, str) or isinstance(name, Enum):
            raise _Refused(
                name, f"a dict key is of type {type(name).__name__}; JSON keys are text: convert it"
            )
    names = [_write_str(name, depth) for name in value]
    data = dict(zip(names, _tagged_members(value.items(), depth), strict=True))
    return _tagged_value("dict", data) if _TAG in data else data


def _write_tuple(value: tuple[Any, ...], depth: int) -> dict[str, Any]:
    return _tagged_value("tuple", _tagged_members(enumerate(value), depth))


def _write_set(name: str) -> Callable[[Iterable[Any], int], dict[str, Any]]:
    def write(value: Iterable[Any], depth: int) -> dict[str, Any]:
        members = _tagged_members(((None, member) for member in value), depth, step="{{…}}")
        return _tagged_value(name, sorted(members, key=to_json))

    return write


def _tagged_value(name: str, value: Any) -> dict[str, Any]:
    return {_TAG: name, "value": value}


# Reading.


def _parsed(text: str, key: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError) as exc:
        raise CorruptState(key, f"it is not JSON ({exc})") from exc


def _rebuilt(data: Any, key: str) -> Any:
    if type(data) is list:
        return [_rebuilt(member, key) for member in data]
    if type(data) is not dict:
        return data
    if _TAG not in data:
        return _rebuilt_members(data, key)
    name = data.pop(_TAG)
    if name == "dict":
        return _rebuilt_members(_content(name, data, key), key)
    stored = _by_name.get(name) if isinstance(name, str) else None
    if stored is None:
        raise UnknownType(key, str(name))
    single = stored.is_single_value
    content = _rebuilt(_content(name, data, key), key) if single else _rebuilt_members(data, key)
    try:
        return stored.read(content)
    except Exception as exc:
        raise CorruptState(key, f"{name} does not accept what is stored ({_brief(exc)})") from exc


def _rebuilt_members(data: Any, key: str) -> dict[str, Any]:
    return {name: _rebuilt(member, key) for name, member in data.items()}


def _plain(data: Any, key: str) -> Any:
    if type(data) is list:
        return [_plain(member, key) for member in data]
    if type(data) is not dict:
        return data
    name = data.pop(_TAG, None)
    if name is None or name == "dict":
        members = data if name is None else _content("dict", data, key)
        return {place: _plain(member, key) for place, member in members.items()}
    stored = _by_name.get(name) if isinstance(name, str) else None
    # Of a type that is not registered here, an object with nothing but `value` is taken for an Enum member.
    is_single_value = data.keys() == {"value"} if stored is None else stored.is_single_value
    return _plain(_content(name, data, key), key) if is_single_value else _plain(data, key)


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


# For those who read stored data in a way of their own.

TAG = _TAG


def stored_data(text: str, key: str = "value") -> Any:
    """The JSON data of a text, its tags as they are. CorruptState."""
    return _parsed(text, key)


def rebuilt(data: Any, key: str = "value") -> Any:
    """The value of JSON data with tags, which it uses up. UnknownType, CorruptState."""
    return _rebuilt(data, key)


def registered_type(name: str) -> type | None:
    """The class that values with this tag have; None if there is none."""
    stored = _by_name.get(name)
    return None if stored is None else stored.cls


def is_plain(value: Any) -> bool:
    """Whether the value is JSON data of exact built-in types, which comes back as it is."""
    return _is_plain(value)


def is_built_in(cls: type) -> bool:
    """Whether the class can be stored without being registered, under a tag of its own."""
    return cls.__name__ in _BUILT_IN and _BUILT_IN[cls.__name__].cls is cls


def refusal_of_type(cls: type) -> str | None:
    """Why no value of the class can be stored, with the way out; None if one can, if it is of a subclass."""
    if cls in _writers:
        return None
    try:
        if any(issubclass(stored, cls) for stored in _writers) or _is_stored_as_base(cls):
            return None
        origin = getattr(cls, "__pydantic_generic_metadata__", {}).get("origin")
        if origin in _writers:
            return None
    except TypeError:
        return None  # nobody can say what its subclasses are
    name = cls.__name__
    if issubclass(cls, (Secret, SecretStr, SecretBytes)):
        return f"a {name} is secret, and state is readable; store a reference to it"
    if issubclass(cls, tuple):
        return f"{name} is a namedtuple, which cannot be stored; return a tuple, a dict or a dataclass"
    if (own := _refusal_of_own_type(cls)) is not None:
        return own
    if issubclass(cls, Enum | BaseModel) or dataclasses.is_dataclass(cls):
        return f"{name} is not registered, so none can be stored; write @register_type above class {name}"
    return f"{name} is neither JSON nor a type that can be registered; convert it"


def _refusal_of_own_type(cls: type) -> str | None:
    """Why a type of graphflow's that is not registered is not stored; None if it is none of them."""
    if not cls.__module__.startswith(_OWN_PREFIX):
        return None
    name = cls.__name__
    return f"{name} is graphflow's own and holds more than values; store what you need of it, such as its status or result"


def _is_stored_as_base(cls: type) -> bool:
    is_other = issubclass(cls, Enum | BaseModel)
    return not is_other and issubclass(cls, str | int | float | list | dict)


# What is registered.


@dataclass(frozen=True, slots=True)
class _StoredType:
    """A class under its name. `write` makes tagged JSON data; `read` takes the fields, or the single value."""

    name: str
    cls: type
    write: Callable[[Any, int], Any]
    read: Callable[[Any], Any]
    is_single_value: bool


def _stored_type(cls: type, name: str) -> _StoredType:
    if not isinstance(cls, type):
        raise TypeError(f"register_type takes a class, not {cls!r}")
    if issubclass(cls, Enum):
        return _StoredType(name, cls, _write_enum(name), cls, is_single_value=True)
    if issubclass(cls, BaseModel):
        return _StoredType(name, cls, _write_model(cls, name), _model_reader(cls), is_single_value=False)
    if dataclasses.is_dataclass(cls):
        write = _write_dataclass(cls, name)
        return _StoredType(name, cls, write, _dataclass_reader(cls), is_single_value=False)
    raise TypeError(f"{cls.__name__} is no pydantic model, dataclass (write @register_type above it) or Enum")


def _check_name_is_free(stored: _StoredType) -> None:
    if not stored.name or stored.name in {"dict", *_BUILT_IN}:
        raise InvalidName("type", stored.name, "the codec itself uses it; choose register_type(name=...)")
    if stored.name.startswith(_OWN_PREFIX) and not stored.cls.__module__.startswith(_OWN_PREFIX):
        raise InvalidName(
            "type", stored.name, "graphflow's own types are called so; choose register_type(name=...)"
        )
    other = _by_name.get(stored.name, stored).cls
    if (other.__module__, other.__qualname__) != (stored.cls.__module__, stored.cls.__qualname__):
        taken = f"{other.__module__}.{other.__qualname__} has that name"
        raise InvalidName("type", stored.name, f"{taken}; choose another with register_type(name=...)")


def _write_enum(name: str) -> Callable[[Enum, int], dict[str, Any]]:
    def write(member: Enum, depth: int) -> dict[str, Any]:
        return _tagged_value(name, _tagged_members([("value", member.value)], depth, step=".{}")[0])

    return write


def _write_model(cls: type[BaseModel], name: str) -> Callable[[BaseModel, int], dict[str, Any]]:
    fields = [place for place, field in cls.model_fields.items() if not field.exclude or field.is_required()]

    def write(model: BaseModel, depth: int) -> dict[str, Any]:
        extra = model.__pydantic_extra__ or {}
        if _TAG in extra:
            raise _Refused(model, f"it has an extra field called {_TAG}, which marks types in stored text")
        values = {place: model.__dict__[place] for place in fields if place in model.__dict__} | extra
        return _tagged_fields(name, values, depth)

    return write


def _write_dataclass(cls: type, name: str) -> Callable[[Any, int], dict[str, Any]]:
    fields = [field.name for field in dataclasses.fields(cls)]
    return lambda value, depth: _tagged_fields(
        name, {field: getattr(value, field) for field in fields}, depth
    )


def _tagged_fields(name: str, values: dict[str, Any], depth: int) -> dict[str, Any]:
    members = _tagged_members(values.items(), depth, step=".{}")
    return {_TAG: name, **dict(zip(values, members, strict=True))}


def _model_reader(cls: type[BaseModel]) -> Callable[[dict[str, Any]], BaseModel]:
    if issubclass(cls, RootModel):
        return lambda fields: cls.model_validate(fields["root"])
    inputs = _input_names(cls)
    return lambda fields: cls.model_validate({inputs.get(place, place): fields[place] for place in fields})


def _dataclass_reader(cls: type) -> Callable[[dict[str, Any]], Any]:
    computed = {field.name for field in dataclasses.fields(cls) if not field.init}
    inputs = _input_names(cls)
    _check_constructor(cls, {inputs.get(field.name, field.name) for field in dataclasses.fields(cls)})

    def read(fields: dict[str, Any]) -> Any:
        value = cls(**{inputs.get(place, place): fields[place] for place in fields if place not in computed})
        # Once more, exactly as stored: __post_init__ may have changed them a second time.
        for place, member in fields.items():
            object.__setattr__(value, place, member)
        return value

    return read


def _check_constructor(cls: type, given: set[str]) -> None:
    for parameter in inspect.signature(cls).parameters.values():
        is_optional = parameter.default is not parameter.empty or parameter.kind is parameter.VAR_KEYWORD
        if parameter.name not in given and not is_optional:
            raise TypeError(f"{cls.__name__} needs {parameter.name!r}, which is no field; give it a default")


def _input_names(cls: Any) -> dict[str, str]:
    """Field name -> the alias that validation knows it by, where there is one."""
    config = getattr(cls, "model_config", getattr(cls, "__pydantic_config__", {}))
    if config.get("populate_by_name") or config.get("validate_by_name"):
        return {}
    names = {}
    for place, field in getattr(cls, "__pydantic_fields__", {}).items():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices):
            alias = next((choice for choice in alias.choices if isinstance(choice, str)), alias)
        if alias is None:
            continue
        if not isinstance(alias, str):
            raise TypeError(
                f"{cls.__name__}.{place} is read from inside another input; give it its own alias"
            )
        names[place] = alias
    return names


# Built in.


def _write_scalar(cls: type, to_value: Callable[[Any], Any]) -> Callable[[Any, int], Any]:
    return lambda value, _depth: _tagged_value(cls.__name__, to_value(value))


def _seconds(value: timedelta) -> float:
    seconds = value.total_seconds()
    if timedelta(seconds=seconds) != value:
        raise _Refused(value, "a timedelta of centuries with microseconds; store it as text or integers")
    return seconds


def _decimal_text(value: Decimal) -> str:
    if not value.is_finite():
        raise _Refused(value, "NaN and Infinity are not JSON; store None or a text instead")
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


_BUILT_IN = {
    cls.__name__: _StoredType(cls.__name__, cls, write, read, is_single_value=True)
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

_by_name: dict[str, _StoredType] = dict(_BUILT_IN)

#: How values of exactly this class are written.
_writers: dict[type, Callable[[Any, int], Any]] = {
    str: _write_str,
    bool: _write_as_is,
    type(None): _write_as_is,
    int: _write_int,
    float: _write_float,
    list: _write_list,
    dict: _write_dict,
    **{stored.cls: stored.write for stored in _BUILT_IN.values()},
}
