"""Which classes of users are stored, under which names, and as what?"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar, overload

from pydantic import AliasChoices, BaseModel, RootModel

from graphflow.codec.built_in import BUILT_IN
from graphflow.codec.table import TAG, StoredType, by_name, writers
from graphflow.codec.writing import Refused, tagged_members, tagged_value
from graphflow.errors import InvalidName

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
    notebook cell run again). Raises `InvalidName` if another class or a built-in type has the name, TypeError if the
    class cannot be stored. Only the fields of a class are stored, not its private attributes; a model's fields with
    `exclude=True` are left out if they have a default.
    """
    if cls is None:
        return lambda decorated: register_type(decorated, name=name)
    stored = _stored_type(cls, cls.__name__ if name is None else name)
    _check_name_is_free(stored)
    by_name[stored.name] = stored
    writers[cls] = stored.write
    return cls


def _stored_type(cls: type, name: str) -> StoredType:
    if not isinstance(cls, type):
        raise TypeError(f"register_type takes a class, not {cls!r}")
    if issubclass(cls, Enum):
        return StoredType(name, cls, _write_enum(name), cls, is_single_value=True)
    if issubclass(cls, BaseModel):
        return StoredType(name, cls, _write_model(cls, name), _model_reader(cls), is_single_value=False)
    if dataclasses.is_dataclass(cls):
        write = _write_dataclass(cls, name)
        return StoredType(name, cls, write, _dataclass_reader(cls), is_single_value=False)
    raise TypeError(f"{cls.__name__} is no pydantic model, dataclass (write @register_type above it) or Enum")


def _check_name_is_free(stored: StoredType) -> None:
    if not stored.name or stored.name in {"dict", *BUILT_IN}:
        raise InvalidName("type", stored.name, "the codec itself uses it; choose register_type(name=...)")
    other = by_name.get(stored.name, stored).cls
    if (other.__module__, other.__qualname__) != (stored.cls.__module__, stored.cls.__qualname__):
        taken = f"{other.__module__}.{other.__qualname__} has that name"
        raise InvalidName("type", stored.name, f"{taken}; choose another with register_type(name=...)")


def _write_enum(name: str) -> Callable[[Enum, int], dict[str, Any]]:
    def write(member: Enum, depth: int) -> dict[str, Any]:
        return tagged_value(name, tagged_members([("value", member.value)], depth, step=".{}")[0])

    return write


def _write_model(cls: type[BaseModel], name: str) -> Callable[[BaseModel, int], dict[str, Any]]:
    fields = [place for place, field in cls.model_fields.items() if not field.exclude or field.is_required()]

    def write(model: BaseModel, depth: int) -> dict[str, Any]:
        extra = model.__pydantic_extra__ or {}
        if TAG in extra:
            raise Refused(model, f"it has an extra field called {TAG}, which marks types in stored text")
        values = {place: model.__dict__[place] for place in fields if place in model.__dict__} | extra
        return _tagged_fields(name, values, depth)

    return write


def _write_dataclass(cls: type, name: str) -> Callable[[Any, int], dict[str, Any]]:
    fields = [field.name for field in dataclasses.fields(cls)]
    return lambda value, depth: _tagged_fields(
        name, {field: getattr(value, field) for field in fields}, depth
    )


def _tagged_fields(name: str, values: dict[str, Any], depth: int) -> dict[str, Any]:
    members = tagged_members(values.items(), depth, step=".{}")
    return {TAG: name, **dict(zip(values, members, strict=True))}


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
