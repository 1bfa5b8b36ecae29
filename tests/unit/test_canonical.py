"""Digests, identities and equality are those of values, not of the texts that a library makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from graphflow.codec import decode, encode, register_type
from graphflow.codec.canonical import (
    EXPONENTS,
    digest,
    digest_of_data,
    earlier_text,
    identity,
    is_earlier,
    is_same_text,
)
from tests import digests

ROOT = Path(digests.__file__).parents[1]


@register_type(name="canonical.Part")
class Part(BaseModel):
    size: float = 1.0


def test_digests_are_the_ones_that_are_kept() -> None:
    kept = json.loads(digests.KEPT.read_text())

    assert digests.digests() == kept
    assert len(set(kept.values())) == len(digests.VALUES)


@pytest.mark.long
@pytest.mark.parametrize("version", ["2.10.6", "2.12.5"])
def test_digests_are_the_kept_ones_under_other_versions_of_pydantic(version: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"pydantic=={version}", "tzdata"], check=True)

    printed = subprocess.run(
        [python, "-m", "tests.digests"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert json.loads(printed) == json.loads(digests.KEPT.read_text())


def test_what_a_digest_is_made_of_is_what_graphflow_says() -> None:
    text = r'{"a":[1e+16,-0.0,1e-07,null,true],"b":"\u00e9\"\\\u0000"}'

    assert (
        digest({"b": 'é"\\\x00', "a": [1e16, -0.0, 1e-7, None, True]})
        == f"2:{sha256(text.encode()).hexdigest()[:32]}"
    )
    assert not is_earlier(digest(1).partition(":")[0])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"d": 2, "c": 1}, "a": 1}),
        ({0, 8}, {8, 0}),
        ([{"b": (1,), "a": 1}], [{"a": 1, "b": (1,)}]),
    ],
)
def test_order_that_is_no_part_of_a_value_changes_no_digest(left: Any, right: Any) -> None:
    assert digest(left) == digest(right)
    assert identity(left) == identity(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 1.0),
        (1, True),
        ("1", 1),
        ([1], (1,)),
        (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1)),
        (OrderedDict(a=1), {"a": 1}),
        ({"$type": "set", "value": [1]}, {1}),
    ],
)
def test_values_that_differ_in_type_or_order_have_other_digests(left: Any, right: Any) -> None:
    assert digest(left) != digest(right)


def test_models_of_which_other_fields_were_set_are_other_arguments_and_the_same_task() -> None:
    assert digest(Part()) != digest(Part(size=1.0))
    assert identity(Part()) == identity(Part(size=1.0))


@pytest.mark.parametrize("value", digests.VALUES.values(), ids=list(digests.VALUES))
def test_the_digest_of_a_stored_text_is_that_of_its_value(value: Any) -> None:
    data = json.loads(encode(value))

    assert digest_of_data(data) == digest(value) == digest(decode(encode(value)))


@pytest.mark.parametrize(
    ("text", "other", "same"),
    [
        ("[1e16]", "[1e+16]", True),
        ('{"a":-1.5e300,"b":"e+"}', '{"a":-1.5e+300,"b":"e+"}', True),
        ("1e16", "1e+16", True),
        ("1e16", "1e+17", False),
        ('["1e16"]', '["1e+16"]', False),
        ('[1e16,"1e16"]', '[1e+16,"1e+16"]', False),
        ('{"a":1,"b":2}', '{"b":2,"a":1}', False),
        ("1e+16", "10000000000000000", False),
        (None, "1e+16", False),
        (None, None, True),
    ],
)
def test_stored_texts_are_of_the_same_value_however_a_number_is_written(
    text: str | None, other: str | None, same: bool
) -> None:
    assert is_same_text(text, other) is same
    assert is_same_text(other, text) is same


def test_earlier_texts_are_as_earlier_versions_wrote_them() -> None:
    value = {
        "b": [1e16, 0.00001, "é", 1e-7],
        "a": {"z", "é", "a"},
        "part": Part(),
        "ordered": OrderedDict(b=1, a=2),
        "mine": {"$type": 1},
    }
    written = (
        '{"b":[1e16,0.00001,"é",1e-7],"a":{"$type":"set","value":["a","z","é"]},'
        '"part":{"$type":"canonical.Part","size":1.0},"ordered":{"b":1,"a":2},'
        '"mine":{"$type":"dict","value":{"$type":1}}}'
    )
    data = json.loads(encode(value))

    assert [earlier_text(data, exponent) for exponent in EXPONENTS] == [
        written.replace("1e16", "1e+16"),
        written,
    ]


def test_digests_need_nothing_of_graphflow_but_the_codec() -> None:
    code = "import sys, tests.digests; print('redis' in sys.modules)"

    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )
