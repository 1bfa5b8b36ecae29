import contextlib
import dataclasses
import itertools
import json
import math
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, datetime, time, timedelta, timezone
from enum import Flag, StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PrivateAttr, field_validator
from pydantic_core import from_json

from graphflow.codec import decode, decode_plain, encode, register_type
from graphflow.codec.canonical import EXPONENTS, digest, digest_of_data, earlier_text, identity
from graphflow.errors import CorruptState, UnknownType, UnstorableValue


class Sample(BaseModel):
    model_config = ConfigDict(extra="allow")
    label: str = "none"
    content: Any
    _note: Any = PrivateAttr(default=None)

    @field_validator("label")
    @classmethod
    def longer(cls, label: str) -> str:
        return f"{label}+"


class Special(Sample):
    more: Any = None


@dataclasses.dataclass(eq=False)
class Plain:
    content: Any
    late: Any = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.beside = 0

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    content: Any


class Mood(StrEnum):
    GOOD = "good"
    BAD = "bad"


class Right(Flag):
    READ = 1
    WRITE = 2


for _cls in (Sample, Special, Plain, Frozen, Mood, Right):
    register_type(_cls, name=f"codec_properties.{_cls.__name__}")


def sample(cls: type[Sample], label: str | None, content: Any, note: Any, extra: dict[str, Any]) -> Sample:
    value = cls(content=content, **({} if label is None else {"label": label}))
    value.__pydantic_extra__ = extra
    value._note = note
    return value


def plain(content: Any, late: Any) -> Plain:
    value = Plain(content)
    if late is not None:
        value.late = value.beside = late
    return value


names = st.one_of(st.sampled_from(["$type", "value", "a"]), st.text(max_size=5))
numbers = st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.integers().map(lambda n: n * 2**64)
)
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
zones = st.sampled_from(["Europe/Berlin", "UTC", "America/New_York"]).map(ZoneInfo)
hashable_scalars = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.text(max_size=10),
    st.binary(max_size=10),
    st.uuids(),
    st.dates(),
    st.times(timezones=st.one_of(st.none(), offsets, zones)),
    st.datetimes(timezones=st.one_of(st.none(), st.just(UTC), offsets, zones)),
    st.datetimes().map(lambda when: when.replace(fold=1)),
    st.timedeltas(),
    st.sampled_from([*Mood, *Right, Right.READ | Right.WRITE, Right(0)]),
    st.decimals(allow_nan=False, allow_infinity=False),
)
hashables = st.recursive(
    hashable_scalars,
    lambda inner: st.one_of(st.frozensets(inner, max_size=4), st.lists(inner, max_size=4).map(tuple)),
    max_leaves=6,
)
values = st.recursive(
    hashables,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(names, inner, max_size=4),
        st.sets(hashables, max_size=4),
        st.dictionaries(names, inner, max_size=3).map(OrderedDict),
        st.dictionaries(names, st.integers(), max_size=3).map(Counter),
        st.dictionaries(names, inner, max_size=3).map(lambda members: defaultdict(list, members)),
        st.builds(
            sample,
            st.sampled_from([Sample, Special]),
            st.none() | st.text(max_size=3),
            inner,
            inner,
            st.dictionaries(names, inner, max_size=2),
        ),
        st.builds(plain, inner, inner),
        st.builds(Frozen, inner),
    ),
    max_leaves=15,
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


def wrappers() -> list[tuple[Any, Any, Any]]:
    """Each three of what may be around a value."""
    around = [
        lambda inner: [inner],
        lambda inner: {"a": inner, "$type": 1},
        lambda inner: (inner, 1),
        lambda inner: OrderedDict(b=inner, a=1),
        lambda inner: Sample(content=inner),
        lambda inner: sample(Special, "x", inner, inner, {"content": inner}),
        lambda inner: plain(inner, inner),
        lambda inner: Frozen(inner),
    ]
    return list(itertools.product(around, repeat=3))


def same(left: Any, right: Any) -> bool:
    """Equality that also tells 1 from 1.0 and True, and looks into everything but the members of sets."""
    if isinstance(left, Plain) and isinstance(right, Plain):
        return same(dict(sorted(vars(left).items())), dict(sorted(vars(right).items())))
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, (list, tuple)):
        return all(map(same, left, right))
    if isinstance(left, dict):
        ordered = list(left) == list(right) and all(same(left[name], right[name]) for name in left)
        return ordered and getattr(left, "default_factory", None) is getattr(right, "default_factory", None)
    if isinstance(left, Sample):
        return left.model_fields_set == right.model_fields_set and all(
            same(getattr(left, part), getattr(right, part))
            for part in ("__dict__", "__pydantic_extra__", "__pydantic_private__")
        )
    if isinstance(left, Frozen):
        return same(left.content, right.content)
    if isinstance(left, datetime | time):
        zones = left.tzinfo, right.tzinfo
        return left.fold == right.fold and type(zones[0]) is type(zones[1]) and str(left) == str(right)
    if isinstance(left, float):
        return math.copysign(1, left) == math.copysign(1, right)
    return True


@given(values)
def test_every_storable_value_is_equal_and_of_the_same_type_after_five_hops(value: Any) -> None:
    back = value
    for _ in range(5):
        back = decode(encode(back))

    assert same(back, value)


@given(st.sampled_from(wrappers()), hashables)
def test_each_kind_of_value_comes_back_three_levels_deep(wrap: tuple[Any, Any, Any], innermost: Any) -> None:
    value = innermost
    for level in wrap:
        value = level(value)
    back = value
    for _ in range(5):
        back = decode(encode(back))

    assert same(back, value)
    assert digest(back) == digest(value)


@given(values)
def test_the_digest_of_a_value_is_that_of_what_comes_back_and_of_its_text(value: Any) -> None:
    text = encode(value)

    assert digest(decode(text)) == digest(value) == digest_of_data(json.loads(text))
    assert identity(decode(text)) == identity(value)


@given(values)
def test_earlier_texts_are_json_that_this_version_reads(value: Any) -> None:
    for exponent in EXPONENTS:
        text = earlier_text(json.loads(encode(value)), exponent)

        assert json.loads(text) == from_json(text)


@given(values)
def test_what_came_back_has_the_same_text(value: Any) -> None:
    text = encode(value)

    assert encode(decode(text)) == text


@given(values)
def test_stored_text_is_json_and_its_plain_form_is_stored_as_it_is(value: Any) -> None:
    text = encode(value)

    json.loads(text, parse_constant=lambda constant: json.loads(f"not JSON: {constant}"))
    plain = decode_plain(text)
    assert decode_plain(encode(plain)) == plain


@given(json_values)
def test_json_is_stored_without_tags(value: Any) -> None:
    text = encode(value)

    assert decode_plain(text) == value
    assume('"$type"' not in text)
    assert json.loads(text) == value


@given(st.lists(hashables, max_size=6))
def test_equal_sets_have_equal_text(members: list[Any]) -> None:
    forwards = set(members)
    backwards: set[Any] = set()
    for member in list(forwards)[::-1]:
        backwards.add(member)

    assert encode(forwards) == encode(backwards)


@given(
    st.recursive(
        st.floats() | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    )
)
def test_encode_stores_or_refuses_and_never_fails_otherwise(value: Any) -> None:
    try:
        text = encode(value)
    except UnstorableValue:
        return
    assert same(decode(text), value)


@given(
    st.recursive(
        json_values,
        lambda inner: st.fixed_dictionaries(
            {
                "$type": st.sampled_from(
                    [
                        "datetime",
                        "set",
                        "dict",
                        "bytes",
                        "Decimal",
                        "timedelta",
                        "UUID",
                        "codec_properties.Sample",
                        "x",
                    ]
                )
                | json_values
            },
            optional={"value": inner, "label": inner},
        ),
    )
)
def test_tampered_text_is_read_or_is_a_typed_error(data: Any) -> None:
    text = json.dumps(data)

    for read in (decode, decode_plain):
        with contextlib.suppress(CorruptState, UnknownType):
            read(text)
