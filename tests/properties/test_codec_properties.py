import contextlib
import json
from datetime import UTC, timedelta, timezone
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel

from graphflow.codec import decode, decode_plain, encode, register_type
from graphflow.errors import CorruptState, UnknownType, UnstorableValue


class Sample(BaseModel):
    label: str
    content: Any


register_type(Sample, name="codec_properties.Sample")

names = st.one_of(st.sampled_from(["$type", "value", "a"]), st.text(max_size=5))
numbers = st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.integers().map(lambda n: n * 2**64)
)
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
hashable_scalars = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.text(max_size=10),
    st.binary(max_size=10),
    st.uuids(),
    st.dates(),
    st.times(),
    st.datetimes(timezones=st.one_of(st.none(), st.just(UTC), offsets)),
    st.timedeltas(timedelta(days=-50_000), timedelta(days=50_000)),
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
        st.builds(Sample, label=st.text(max_size=3), content=inner),
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


def same(left: Any, right: Any) -> bool:
    """Equality that also tells 1 from 1.0 and True, and looks into everything but the members of sets."""
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, (list, tuple)):
        return all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[name], right[name]) for name in left)
    if isinstance(left, Sample):
        return same(left.content, right.content)
    return True


@given(values)
def test_every_storable_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    assert same(decode(encode(value)), value)


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
