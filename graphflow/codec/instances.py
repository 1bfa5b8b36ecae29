"""How are instances of models and dataclasses taken apart, and put together again as they were?

No validator, no constructor and no `__post_init__` is run: an instance gets the fields that it had, at any number of
hops. Its fields are inline in stored text. What it has beside them is under keys of its own, where it is there:

    {"$type":"Report","title":"Tides","pages":[],"$unset":["pages"]}     nobody has set `pages` (`model_fields_set`)
    {"$type":"Report","title":"Tides","$missing":["pages"]}              it has no `pages` (`model_construct`, `init=False`)
    {"$type":"Account","id":1,"$attributes":{"_seen":3}}                 private attributes, and others that are no fields
    {"$type":"Loose","size":1,"$extra":{"size":2,"$type":"x"}}           extra fields whose names are taken

A class that can have attributes beside its fields is always stored with `$attributes`. Text without them is of an earlier
version, which had the class make them: then `model_post_init` or `__post_init__` does so once, and the fields stay.

Not stored are cached properties, which are made anew, and fields of a model with `exclude=True` that have a default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, MemberDescriptorType
from typing import Any

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from graphflow.codec.refusals import Refused
from graphflow.codec.table import ATTRIBUTES, EXTRA, INSTANCE_MARKS, MISSING, TAG, UNSET, Unfitting
from graphflow.codec.writing import tagged_fields, write_dict

_MISSING = object()
_NO_MARKS: Mapping[str, Any] = {}

#: Python's flag of a class that was made by a class statement.
_HEAP_TYPE = 1 << 9


def check_layout(cls: type) -> None:
    """TypeError for a class whose instances hold more than their attributes, such as a dataclass that is a dict."""
    base = next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)
    if base is not object:
        raise TypeError(
            f"{cls.__name__} is a {base.__name__}, too, whose content is no field; make that a field"
        )
    if issubclass(cls, BaseModel) and (slots := _slots(cls) - _slots(BaseModel)):
        slot = min(slots)
        raise TypeError(f"{cls.__name__}.{slot} cannot be stored: it is a slot; make it a private attribute")


# Models


def stored_fields(cls: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model that are stored."""
    fields = cls.model_fields
    return {name: field for name, field in fields.items() if not field.exclude or field.is_required()}


def model_writer(cls: type[BaseModel], name: str) -> Callable[[BaseModel, int], dict[str, Any]]:
    fields = tuple(stored_fields(cls))
    field_set = frozenset(fields)
    known = frozenset(cls.model_fields)
    has_private = bool(cls.__private_attributes__)
    no_attributes = known | _cached(cls) | {"__pydantic_private__", "__pydantic_extra__"}

    def write(model: BaseModel, depth: int) -> dict[str, Any]:
        held, were_set = model.__dict__, model.__pydantic_fields_set__
        marks: dict[str, Any] = {}
        if held.keys() == field_set:
            values = held
        else:
            values = {field: held[field] for field in fields if field in held}
            if len(values) < len(fields):
                marks[MISSING] = [field for field in fields if field not in held]
        if extra := model.__pydantic_extra__:
            if any(field in known or field.startswith("$") for field in extra):
                marks[EXTRA] = extra
            else:
                values = values | extra
            if left := {*field_set, *extra} - were_set:
                marks[UNSET] = sorted(left)
        elif were_set != field_set and (unset := field_set - were_set):
            marks[UNSET] = sorted(unset)
        if has_private or (values is not held and not held.keys() <= no_attributes):
            attributes = dict(model.__pydantic_private__ or {})
            attributes |= {place: held[place] for place in held if place not in no_attributes}
            marks[ATTRIBUTES] = attributes
        return _object(name, values, marks, depth)

    return write


def model_reader(cls: type[BaseModel], name: str) -> Callable[[dict[str, Any]], BaseModel]:
    all_fields = cls.model_fields
    names = frozenset(all_fields)
    private = cls.__private_attributes__
    # A root model has None of these in its class, where an assignment would get into its own dict.
    is_root = issubclass(cls, RootModel)
    takes_extra = cls.model_config.get("extra") == "allow"
    new, assign = cls.__new__, object.__setattr__

    def read(data: dict[str, Any]) -> BaseModel:
        unset = data.pop(UNSET, None)
        marks = _marks(data)
        extra: dict[str, Any] | None = None
        if takes_extra:
            inline = {place: data.pop(place) for place in list(data) if place not in all_fields}
            extra = inline | marks.get(EXTRA, {})
        elif EXTRA in marks:
            raise Unfitting(
                "the class takes no extra fields any more, and what they hold would be lost; let it do so"
            )
        missing = marks.get(MISSING, ())
        were_set = {*data, *missing, *(extra or ())} if missing or extra else set(data)
        if unset:
            were_set.difference_update(unset)
        held = data
        if data.keys() != names:
            held = _fitted(
                name, data, missing, all_fields, lambda field: _default_of(all_fields[field], data)
            )
        value = new(cls)
        assign(value, "__dict__", held)
        assign(value, "__pydantic_fields_set__", were_set)
        if not is_root:
            assign(value, "__pydantic_extra__", extra)
            assign(value, "__pydantic_private__", None)
        if private or marks:
            _add_attributes(value, private, marks.get(ATTRIBUTES))
        return value

    return read


def _add_attributes(
    model: BaseModel, private: Mapping[str, Any], attributes: Mapping[str, Any] | None
) -> None:
    """Private attributes, and others beside the fields: as they were stored, or as the class makes them."""
    assign, held = object.__setattr__, model.__dict__
    if attributes is not None:
        held |= {place: member for place, member in attributes.items() if place not in private}
        if private:
            kept = {place: attributes[place] for place in private if place in attributes}
            assign(model, "__pydantic_private__", _with_new_defaults(private, kept))
    elif private:
        before, were_set = dict(held), set(model.__pydantic_fields_set__)
        model.model_post_init(None)
        assign(model, "__dict__", before)
        assign(model, "__pydantic_fields_set__", were_set)


def _with_new_defaults(private: Mapping[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """`kept` with the defaults of private attributes that the class has gained."""
    for place in private.keys() - kept.keys():
        factory = private[place].default_factory
        default = private[place].get_default() if factory is None else factory()
        if default is not PydanticUndefined:
            kept[place] = default
    return kept


def _default_of(field: FieldInfo, data: dict[str, Any]) -> Any:
    if field.is_required():
        return _MISSING
    return field.get_default(call_default_factory=True, validated_data=data)


# Dataclasses


def dataclass_writer(cls: type, name: str) -> Callable[[Any, int], dict[str, Any]]:
    fields = tuple(field.name for field in dataclasses.fields(cls))
    field_set = frozenset(fields)
    no_attributes = field_set | _cached(cls)
    slots = tuple(sorted(_slots(cls) - field_set))
    always = _makes_attributes(cls)

    def write(value: Any, depth: int) -> dict[str, Any]:
        values = {}
        for field in fields:
            member = getattr(value, field, _MISSING)
            if member is not _MISSING:
                values[field] = member
        marks: dict[str, Any] = {}
        if len(values) < len(fields):
            marks[MISSING] = [field for field in fields if field not in values]
        held = getattr(value, "__dict__", _NO_MARKS)
        attributes = {}
        if slots or len(held) > len(fields) or not held.keys() <= field_set:
            attributes = {place: held[place] for place in held if place not in no_attributes}
            attributes |= {place: getattr(value, place) for place in slots if hasattr(value, place)}
        if attributes or always:
            marks[ATTRIBUTES] = attributes
        return _object(name, values, marks, depth)

    return write


def dataclass_reader(cls: type, name: str) -> Callable[[dict[str, Any]], Any]:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    makes_attributes = _makes_attributes(cls)
    assign = object.__setattr__

    def default(place: str) -> Any:
        return _dataclass_default(cls, fields[place])

    def read(data: dict[str, Any]) -> Any:
        marks = _marks(data)
        held = data
        if data.keys() != fields.keys():
            held = _fitted(name, data, marks.get(MISSING, ()), fields, default)
        value: Any = object.__new__(cls)
        for place, member in held.items():
            assign(value, place, member)
        attributes = marks.get(ATTRIBUTES)
        if attributes is None and makes_attributes:
            value.__post_init__(*_init_defaults(cls))
            attributes = held
        for place, member in (attributes or _NO_MARKS).items():
            assign(value, place, member)
        return value

    return read


def _makes_attributes(cls: Any) -> bool:
    """Whether its instances may get attributes beside their fields where they are made."""
    has_room = cls.__dictoffset__ or _slots(cls) - cls.__dataclass_fields__.keys()
    return hasattr(cls, "__post_init__") and bool(has_room)


def _dataclass_default(cls: Any, field: dataclasses.Field[Any]) -> Any:
    by_pydantic = getattr(cls, "__pydantic_fields__", {}).get(field.name)
    if by_pydantic is not None:
        return _default_of(by_pydantic, {})
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _MISSING if field.default is dataclasses.MISSING else field.default


def _init_defaults(cls: Any) -> Iterator[Any]:
    """The defaults of what is given to `__post_init__` alone, in order. Earlier versions stored no class without."""
    for field in cls.__dataclass_fields__.values():
        if isinstance(field.type, dataclasses.InitVar) or str(field.type).startswith(
            ("InitVar", "dataclasses.InitVar")
        ):
            yield field.default


def _slots(cls: type) -> set[str]:
    return {
        name
        for base in cls.__mro__
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType)
    }


# Both


def _cached(cls: type) -> set[str]:
    """Attributes that the class makes anew where they are read, such as cached properties."""
    return {
        name
        for base in cls.__mro__
        for name, member in vars(base).items()
        if hasattr(type(member), "__get__")
        and not hasattr(type(member), "__set__")
        and not isinstance(member, FunctionType | classmethod | staticmethod)
    }


def _object(name: str, values: dict[str, Any], marks: dict[str, Any], depth: int) -> dict[str, Any]:
    data = tagged_fields(values, depth, into={TAG: name})
    if not marks:
        return data
    if ATTRIBUTES in marks:
        marks[ATTRIBUTES] = _attributes(marks[ATTRIBUTES], depth + 1)
    if EXTRA in marks:
        marks[EXTRA] = write_dict(marks[EXTRA], depth + 1)
    data.update(marks)
    return data


def _attributes(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    try:
        return tagged_fields(attributes, depth)
    except Refused as refused:
        refused.reason += " (it is no field; what need not be kept can be a functools.cached_property)"
        raise


def _marks(data: dict[str, Any]) -> Mapping[str, Any]:
    """What is said of the instance beside its fields, taken out of `data`."""
    if INSTANCE_MARKS.isdisjoint(data):
        return _NO_MARKS
    return {mark: data.pop(mark) for mark in INSTANCE_MARKS & data.keys()}


def _fitted(
    name: str,
    data: dict[str, Any],
    missing: Iterable[str],
    fields: Iterable[str],
    default: Callable[[str], Any],
) -> dict[str, Any]:
    """The fields of an instance in the order of the class: those stored, and defaults of what was not there then."""
    fields = list(fields)
    lost = sorted(data.keys() - set(fields))
    if lost:
        raise Unfitting(
            f"the class has lost the field {lost[0]!r} since it was stored, and what it holds would be lost; "
            f"keep the field, with a default, until no run holds a {name} that has it, or start the run anew"
        )
    held = {}
    for field in fields:
        if field in data:
            held[field] = data[field]
        elif field not in missing:
            held[field] = default(field)
            if held[field] is _MISSING:
                raise Unfitting(
                    f"the class has gained the field {field!r} since it was stored, which has no default; give it one"
                )
    return held
