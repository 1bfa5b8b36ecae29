"""What all nouns of a graph have in common: a setting that one does not have is refused by name, and one name is a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from graphflow.errors import InvalidGraph
from graphflow.ids import nearest


def _listed(names: object) -> object:
    return [names] if isinstance(names, str) else names


#: A list of names; a single one need not be in a list.
Names = Annotated[list[str], BeforeValidator(_listed)]


class Noun(BaseModel):
    """Unknown settings are an InvalidGraph with the nearest names."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _with_known_settings(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            problems = list(_problems(cls, error))
            if not problems:
                raise
        raise InvalidGraph(problems)


def unknown_setting(owner: str, name: str, known: Iterable[str]) -> str:
    return f"{owner} has no setting {name!r}{nearest(name, known)}"


def settings_of(cls: type[BaseModel]) -> Iterator[str]:
    """By the names under which they are given."""
    for name, field in cls.model_fields.items():
        alias = field.validation_alias
        if isinstance(alias, str):
            yield alias
        elif isinstance(alias, AliasChoices):
            yield from (choice for choice in alias.choices if isinstance(choice, str))
        else:
            yield name


def _problems(cls: type[BaseModel], error: ValidationError) -> Iterator[str]:
    """With an unknown setting everything that is wrong; nothing without one."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if not any(_is_unknown(detail) for detail in details):
        return
    for detail in details:
        if _is_unknown(detail):
            yield unknown_setting(cls.__name__, str(detail["loc"][0]), settings_of(cls))
        else:
            yield f"{cls.__name__}.{'.'.join(map(str, detail['loc']))}: {detail['msg']}"


def _is_unknown(detail: Any) -> bool:
    return detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1
