"""What has an answer to fit? A pydantic model where its code is loaded, and everywhere else the JSON Schema of that."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from graphflow.codec import decode, decode_plain, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

#: Problems of one answer that are told, and characters of each.
MAX_PROBLEMS = 10
MAX_PROBLEM_LENGTH = 200


@functools.lru_cache(maxsize=256)
def schema_text(model: type[BaseModel]) -> str:
    """What fits the model, as a JSON Schema; empty if that cannot be said in one."""
    try:
        return to_json(model.model_json_schema(mode="validation")).decode()
    except Exception as error:
        # What users write into their models may raise anything here; the model itself decides then.
        logger.debug("%s has no JSON Schema: %s", model.__name__, error)
        return ""


def problems_of(value: Any, schema: str) -> list[str]:
    """What keeps a value that is to be sent from fitting a JSON Schema, one sentence for each field; none if it fits, or
    if the schema is none that can be used: then whoever takes the value decides."""
    if not schema or (isinstance(value, BaseModel) and schema_text(type(value)) == schema):
        return []
    # A tenth of a second that only who sends an answer to a schema pays for.
    from jsonschema import Draft202012Validator
    from referencing import Registry

    try:
        # An empty registry: nothing that a stored schema names is looked up anywhere else.
        validator = Draft202012Validator(from_json(schema), registry=Registry())
        found = sorted(validator.iter_errors(decode_plain(encode(value))), key=lambda error: error.json_path)
    except Exception as error:
        logger.warning("an answer cannot be held against its JSON Schema: %s", error)
        return []
    return _told((list(error.absolute_path), error.message) for error in found)


class Unfit(Exception):
    """A value does not fit a model; its message says in which fields."""


def fitting(text: str, signal: str, model: type[BaseModel]) -> BaseModel:
    """A signal's value, given as text, as the model. Unfit."""
    value = decode(text, signal)
    if isinstance(value, model):
        return value
    try:
        # As JSON, where it is nothing else: so a strict model takes a date as text.
        is_plain = encode(decode_plain(text)) == text
        return model.model_validate_json(text) if is_plain else model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise Unfit("; ".join(_told((problem["loc"], problem["msg"]) for problem in found))) from error
    except Exception as error:
        # A validator of the model has met what it does not foresee.
        raise Unfit(f"{type(error).__name__}: {error}") from error


def _told(problems: Iterator[tuple[Sequence[Any], str]]) -> list[str]:
    told = [f"{'.'.join(map(str, path)) or 'value'}: {_shortened(message)}" for path, message in problems]
    return told[:MAX_PROBLEMS] + (
        [f"and {len(told) - MAX_PROBLEMS} more"] if len(told) > MAX_PROBLEMS else []
    )


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_PROBLEM_LENGTH else f"{text[: MAX_PROBLEM_LENGTH - 1]}…"
