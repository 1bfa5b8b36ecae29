"""What has an answer to fit? A pydantic model where its code has run, and everywhere else the JSON Schema of that."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from graphflow.codec import decode, decode_plain, encode
from graphflow.errors import CorruptState, UnknownType

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jsonschema

logger = logging.getLogger(__name__)

#: Problems of one answer that are told, and characters of each.
MAX_PROBLEMS = 10
MAX_PROBLEM_LENGTH = 200

#: The JSON Schemas, as texts, of the models that were waited for in this process.
_texts: WeakKeyDictionary[type[BaseModel], str] = WeakKeyDictionary()


class Unfit(Exception):
    """A value does not fit a model; `problems` says so for each field."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = [*problems]
        super().__init__("; ".join(self.problems))


def schema_text(model: type[BaseModel]) -> str:
    """What fits the model, as a JSON Schema; empty if that cannot be said in one."""
    text = _texts.get(model)
    if text is None:
        text = _texts[model] = _made_text(model)
    return text


def _made_text(model: type[BaseModel]) -> str:
    try:
        return to_json(model.model_json_schema(mode="validation")).decode()
    except Exception as error:
        # What users write into their models may raise anything here; the model itself decides then.
        logger.debug("%s has no JSON Schema: %s", model.__name__, error)
        return ""


def problems_of(text: str, schema: str) -> list[str]:
    """What keeps a value that is to be sent, given as text, from fitting a JSON Schema: one sentence for each field; none
    if it fits, or if that cannot be told here: then whoever takes the value decides.

    A model that has this schema decides itself, where it was waited for in this process; of several, any that fits.
    """
    if not schema:
        return []
    models = [model for model, other in [*_texts.items()] if other == schema]
    if models:
        return min((_misfits(text, model) for model in models), key=len)
    # A Python type has no place in a JSON Schema but by what pydantic makes of it.
    return _mismatches(text, schema) if _is_plain(text) else []


def _misfits(text: str, model: type[BaseModel]) -> list[str]:
    try:
        fitting(text, "answer", model)
    except Unfit as unfit:
        return unfit.problems
    except (UnknownType, CorruptState):
        pass
    return []


def _mismatches(text: str, schema: str) -> list[str]:
    # A tenth of a second that only who sends an answer to a schema pays for.
    from jsonschema import Draft202012Validator
    from referencing import Registry

    try:
        # An empty registry: nothing that a stored schema names is looked up anywhere else.
        validator = Draft202012Validator(from_json(schema), registry=Registry())
        found = sorted(validator.iter_errors(from_json(text)), key=lambda error: error.json_path)
        return _told(told for error in found for told in _fields(error))
    except Exception as error:
        logger.warning("an answer cannot be held against its JSON Schema: %s", error)
        return []


def _fields(error: jsonschema.ValidationError) -> Iterator[tuple[Sequence[Any], str]]:
    """The fields that an error is about, each with what is wrong: where one alternative of a union was meant, by its type
    or by the constants in it, what that lacks."""
    alternatives: dict[Any, list[jsonschema.ValidationError]] = {}
    for inner in error.context:
        alternatives.setdefault(inner.relative_schema_path[0], []).append(inner)
    of_other_type = [found for found in alternatives.values() if any(map(_is_of_other_type, found))]
    meant = [
        found
        for found in alternatives.values()
        if found not in of_other_type and not any(inner.validator == "const" for inner in found)
    ]
    if len(meant) == 1:
        for inner in meant[0]:
            yield from _fields(inner)
    elif alternatives and len(of_other_type) == len(alternatives):
        types = " or ".join(repr(inner.validator_value) for found in of_other_type for inner in found)
        yield [*error.absolute_path], f"{error.instance!r} is not of type {types}"
    else:
        yield [*error.absolute_path], error.message


def _is_of_other_type(error: jsonschema.ValidationError) -> bool:
    """Whether the value itself, and not a part of it, is of another type than this alternative."""
    return bool(error.validator == "type" and not error.relative_path)


def fitting(text: str, signal: str, model: type[BaseModel]) -> BaseModel:
    """A signal's value, given as text, as the model. Unfit; UnknownType, CorruptState."""
    value = decode(text, signal)
    if isinstance(value, model):
        return value
    try:
        # As JSON, where it is nothing else: so a strict model takes a date as text.
        return model.model_validate_json(text) if _is_plain(text) else model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise Unfit(_told((problem["loc"], problem["msg"]) for problem in found)) from error
    except Exception as error:
        # A validator of the model has met what it does not foresee.
        raise Unfit([f"{type(error).__name__}: {error}"]) from error


def _is_plain(text: str) -> bool:
    """Whether a value, given as text, has nothing that JSON has not."""
    return encode(decode_plain(text)) == text


def _told(problems: Iterable[tuple[Sequence[Any], str]]) -> list[str]:
    told = [f"{'.'.join(map(str, path)) or 'value'}: {_shortened(message)}" for path, message in problems]
    return told[:MAX_PROBLEMS] + (
        [f"and {len(told) - MAX_PROBLEMS} more"] if len(told) > MAX_PROBLEMS else []
    )


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_PROBLEM_LENGTH else f"{text[: MAX_PROBLEM_LENGTH - 1]}…"
