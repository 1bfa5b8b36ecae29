"""What all nouns of a graph have in common: a setting that there is not is refused by name, and one name stands for a list.

The constructor raises `UnknownSetting`. Where a noun is read from data, as inside a model of somebody else's, the same
sentence comes as pydantic's ValidationError.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from graphflow.errors import UnknownSetting
from graphflow.ids import nearest

_UNKNOWN = "unknown_setting"


def _listed(names: object) -> object:
    return [names] if isinstance(names, str) else names


#: A list of names; a single one need not be in a list.
Names = Annotated[list[str], BeforeValidator(_listed)]


class Noun(BaseModel):
    """Its settings are the fields. UnknownSetting names what else it is given, and the nearest that there are."""

    model_config = ConfigDict(extra="forbid")

    def __init__(self, /, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            problems = list(_problems(type(self).__name__, error))
            if not problems:
                raise
        else:
            return
        raise UnknownSetting(problems)

    # What is nested is validated as data all the same, and told with all the rest.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _has_all_settings(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.keys() <= cls.model_fields.keys():
            if cls.model_config.get("extra") != "forbid":
                return given
            known = set(settings_of(cls))
            problems = [unknown_in(cls, str(name), cls.__name__) for name in given if name not in known]
            if problems:
                raise PydanticCustomError(_UNKNOWN, "{text}", {"text": "; ".join(problems), "all": problems})
        return given


def refuse_unknown(owner: str, given: Iterable[str], known: Collection[str]) -> None:
    """UnknownSetting unless the owner has all that is given."""
    if problems := [_sentence(owner, name, nearest(name, known)) for name in given if name not in known]:
        raise UnknownSetting(problems)


def settings_of(cls: type[BaseModel]) -> Iterator[str]:
    """By all names under which they may be given."""
    by_name = cls.model_config.get("populate_by_name") or cls.model_config.get("validate_by_name")
    for name, field in cls.model_fields.items():
        aliases = list(_aliases(field))
        yield from aliases
        if by_name or not aliases:
            yield name


def _aliases(field: FieldInfo) -> Iterator[str]:
    alias = field.validation_alias
    for choice in alias.choices if isinstance(alias, AliasChoices) else (alias,):
        first = choice.path[0] if isinstance(choice, AliasPath) else choice
        if isinstance(first, str):
            yield first


def unknown_in(cls: type[BaseModel], name: str, owner: str) -> str:
    """The sentence about a setting that the class has not: where it belongs, or what it may have meant."""
    for setting, field in cls.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Noun) and name in settings_of(inner):
            return _sentence(owner, name, f"; give it as {setting}={inner.__name__}({name}=...)")
    return _sentence(owner, name, nearest(name, settings_of(cls)))


def _sentence(owner: str, name: str, advice: str) -> str:
    return f"{owner} has no setting {name!r}{advice}"


def _problems(owner: str, error: ValidationError) -> Iterator[str]:
    """With an unknown setting everything that is wrong; nothing without one."""
    details = error.errors(include_url=False, include_input=False)
    if not any(detail["type"] == _UNKNOWN for detail in details):
        return
    for detail in details:
        context: Mapping[str, Any] = detail.get("ctx", {})
        if detail["type"] == _UNKNOWN:
            yield from context["all"]
        else:
            yield f"{owner}.{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
