"""What is said of an answer that does not fit, where only the JSON Schema of its model is there."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from graphflow.codec import encode
from graphflow.state import schemas


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


class Visit(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    by: str | None = None
    former: Cat | None = None
    room: Literal["a", "b"] = "a"
    also: list[Visit] = []


def problems_by_schema_alone(model: type[BaseModel], text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    schema = schemas.schema_text(model)
    monkeypatch.setattr(schemas, "_texts", {})
    return schemas.problems_of(encode(json.loads(text)), schema)


CAT = '{"kind": "cat", "lives": 3}'


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (f'{{"pet": {CAT}, "by": null, "former": {CAT}, "also": [{{"pet": {CAT}}}]}}', []),
        ("3", ["value: 3 is not of type 'object'"]),
        ("{}", ["value: 'pet' is a required property"]),
        (
            '{"pet": {"kind": "cat", "lives": 10}}',
            ["pet.lives: 10 is greater than the maximum of 9"],
        ),
        (
            f'{{"pet": {CAT}, "by": 3, "room": "c"}}',
            ["by: 3 is not of type 'string' or 'null'", "room: 'c' is not one of ['a', 'b']"],
        ),
        (
            f'{{"pet": {CAT}, "former": {{"kind": "cat"}}}}',
            ["former: 'lives' is a required property"],
        ),
        (
            f'{{"pet": {CAT}, "also": [{{"pet": {{"kind": "dog", "tricks": [1]}}}}]}}',
            ["also.0.pet.tricks.0: 1 is not of type 'string'"],
        ),
        (
            '{"pet": {"kind": "cow"}}',
            ["pet: {'kind': 'cow'} is not valid under any of the given schemas"],
        ),
    ],
)
def test_each_field_that_does_not_fit_is_told(
    text: str, problems: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert problems_by_schema_alone(Visit, text, monkeypatch) == problems


def test_of_many_problems_some_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Many(BaseModel):
        texts: list[str]

    told = problems_by_schema_alone(Many, f'{{"texts": {[1] * 50}}}', monkeypatch)

    assert len(told) == schemas.MAX_PROBLEMS + 1
    assert told[-1] == "and 40 more"


def test_schema_that_cannot_be_used_leaves_it_to_whoever_takes_the_value() -> None:
    assert schemas.problems_of("3", '{"type": 7}') == []
    assert schemas.problems_of("3", "") == []
