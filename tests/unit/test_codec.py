import dataclasses
import json
import math
import re
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel, SecretBytes, SecretStr
from pydantic.dataclasses import dataclass as pydantic_dataclass

from graphflow.codec import MAX_DEPTH, decode, decode_all, decode_plain, encode, register_type, table
from graphflow.codec.built_in import BUILT_IN
from graphflow.errors import ChangedType, CorruptState, InvalidName, UnknownType, UnstorableValue


class Color(Enum):
    RED = "red"
    POINT = (1, 2)


class Level(IntEnum):
    LOW = 1


class Mood(StrEnum):
    GOOD = "good"


class Right(Flag):
    READ = 1
    WRITE = 2


class Source(BaseModel):
    url: str
    fetched: datetime | None = None


class Report(BaseModel):
    title: str
    sources: list[Source] = []
    tags: set[str] = set()


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: float = 0.0


Pair = namedtuple("Pair", "left right")

WHEN = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """What a test registers is forgotten after it, and it knows of nothing that others have registered."""
    before = [(known, dict(known)) for known in (table.by_name, table.writers)]
    for name in table.by_name.keys() - BUILT_IN.keys():
        table.writers.pop(table.by_name.pop(name).cls, None)
    yield
    for known, content in before:
        known.clear()
        known.update(content)


def nested(levels: int, innermost: Any = 1) -> Any:
    value = innermost
    for _ in range(levels):
        value = [value]
    return value


def type_name(value: Any) -> str:
    return type(value).__name__


# JSON


def test_json_values_are_stored_as_compact_json_in_the_given_order() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"text": "é \u2028 \x00"}, "": []}

    text = encode(value)

    assert text == '{"b":[1,2.5,null,true],"a":{"text":"é \u2028 \\u0000"},"":[]}'
    assert json.loads(text) == value


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        2**53 + 1,
        2**70,
        -(2**70),
        10**3999,
        -(10**4000) + 1,
        0.1,
        -0.0,
        5e-324,
        1e308,
        1e22,
        2.0,
        "",
        "\x7f",
        False,
    ],
    ids=type_name,
)
def test_scalars_come_back_exactly(value: Any) -> None:
    back = decode(encode(value))

    assert back == value
    assert type(back) is type(value)
    assert math.copysign(1, back) == math.copysign(1, value) if isinstance(value, float) else True


def test_each_decode_gives_a_fresh_value() -> None:
    text = encode({"items": [1]})

    decode(text)["items"].append(2)

    assert decode(text) == {"items": [1]}


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Counter("aab"), '{"$type":"Counter","value":{"a":2,"b":1}}'),
        (OrderedDict(b=1, a=2), '{"$type":"OrderedDict","value":{"b":1,"a":2}}'),
        (
            defaultdict(list, {"a": [1]}),
            '{"$type":"defaultdict","value":{"a":[1]},"$factory":"list"}',
        ),
        (
            defaultdict(None, {"$type": 1}),
            '{"$type":"defaultdict","value":{"$type":"dict","value":{"$type":1}}}',
        ),
    ],
    ids=type_name,
)
def test_dicts_of_the_standard_library_come_back_as_what_they_are(value: Any, stored: str) -> None:
    back = decode(encode(value))

    assert encode(value) == stored
    assert type(back) is type(value)
    assert back == value
    assert list(back) == list(value)
    assert getattr(back, "default_factory", None) is getattr(value, "default_factory", None)
    assert decode_plain(stored) == dict(value)


@pytest.mark.parametrize(
    "value",
    [
        type("Text", (str,), {})("hello"),
        type("Count", (int,), {})(7),
        type("Share", (float,), {})(0.5),
        type("Rows", (list,), {})([1]),
        type("Fields", (dict,), {})(a=1),
        Pair(1, 2),
        type("Some", (set,), {})([1]),
        type("Fixed", (frozenset,), {})([1]),
        type("Raw", (bytes,), {})(b"x"),
        bytearray(b"x"),
        memoryview(b"x"),
        type("Later", (datetime,), {})(2026, 1, 1),
        type("Day", (date,), {})(2026, 1, 1),
        type("Hour", (time,), {})(8),
        type("Span", (timedelta,), {})(1),
        type("Money", (Decimal,), {})("1.50"),
        type("Id", (UUID,), {})(int=1),
        1 + 2j,
        Fraction(1, 3),
        PurePosixPath("/a"),
        Path("/a"),
        ZoneInfo("Europe/Berlin"),
        re.compile("a+"),
        MappingProxyType({"a": 1}),
        range(3),
        deque([1]),
        {"a": 1}.keys(),
        {"a": 1}.values(),
        {"a": 1}.items(),
        iter([1]),
        ValueError("x"),
        Color.RED,
        Mood.GOOD,
        Level.LOW,
        defaultdict(lambda: 1, {"a": 1}),
    ],
    ids=type_name,
)
def test_what_would_not_come_back_as_it_is_is_refused_with_advice_that_can_be_followed(value: Any) -> None:
    with pytest.raises(UnstorableValue) as refusal:
        encode([value], "k")
    said = str(refusal.value)
    assert type_name(value) in said or "defaultdict" in said
    advice = re.search(r".*store (?:tuple\(value\) or )?(.*)$", said)
    assert advice is not None
    instead = advice[1].replace("its value", "value.value")
    names = {
        "datetime": datetime,
        "date": date,
        "time": time,
        "timedelta": timedelta,
        "Decimal": Decimal,
        "UUID": UUID,
    }

    followed = eval(instead, {**names, "value": value})

    assert same(decode(encode(followed)), followed)


def test_scalars_of_arrays_are_refused_with_the_advice_to_take_the_item(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    like_numpy = type("float64", (float,), {"__module__": "numpy", "item": lambda self: float(self)})(0.5)

    with pytest.raises(
        UnstorableValue, match=r"a value of type float64 would not come back as one; store value\.item"
    ):
        encode(like_numpy)


def same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)


# What is refused


class Opaque:
    pass


class Zone(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1)


@pytest.mark.parametrize(
    ("value", "type_name", "path", "says"),
    [
        ({"a": [1, Opaque()]}, "Opaque", "['a'][1]", "make Opaque a dataclass or pydantic model"),
        ([float("nan")], "float", "[0]", "NaN and Infinity are not JSON"),
        (float("-inf"), "float", "", "NaN and Infinity are not JSON"),
        ({"n": Decimal("sNaN")}, "Decimal", "['n']", "NaN and Infinity are not JSON"),
        ({"a": {3: "x"}}, "int", "['a']", "a dict key is of type int"),
        ({Mood.GOOD: 1}, "Mood", "", "a dict key is of type Mood"),
        (["ok", "\ud800"], "str", "[1]", "lone surrogate"),
        ({"\ud800": 1}, "str", "", "lone surrogate"),
        ([10**4000], "int", "[0]", "more than 4,000 digits"),
        (-(10**4000), "int", "", "more than 4,000 digits"),
        ({"p": Pair(1, 2)}, "Pair", "['p']", "value._asdict()"),
        ([Color.RED], "Color", "[0]", "register_type(Color)"),
        (Mood.GOOD, "Mood", "", "register_type(Mood)"),
        (Level.LOW, "Level", "", "register_type(Level)"),
        (Source(url="x"), "Source", "", "register_type(Source)"),
        ({"at": Point(1)}, "Point", "['at']", "register_type(Point)"),
        ({"key": SecretStr("hunter2")}, "SecretStr", "['key']", "secret"),
        (SecretBytes(b"hunter2"), "SecretBytes", "", "secret"),
        (pydantic.Secret[int](5), "Secret", "", "secret"),
        ({"s": {Opaque}}, "type", "['s']{…}", "lives in this process only"),
        ({type("Key", (str,), {})("k"): 1}, "Key", "", "a dict key is of type Key"),
        (lambda: None, "function", "", "was it meant to be called"),
        (WHEN.replace(tzinfo=Zone()), "datetime", "", "its time zone is a Zone"),
        (time(8, tzinfo=Zone()), "time", "", "its time zone is a Zone"),
    ],
    ids=type_name,
)
def test_what_cannot_be_stored_is_refused_with_key_type_and_path(
    value: Any, type_name: str, path: str, says: str
) -> None:
    with pytest.raises(UnstorableValue) as refusal:
        encode(value, "notes")

    assert (refusal.value.key, refusal.value.type_name, refusal.value.path) == ("notes", type_name, path)
    assert "cannot store 'notes'" in str(refusal.value)
    assert says in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_a_value_that_contains_itself_is_refused() -> None:
    as_list: list[Any] = [1]
    as_list.append(as_list)
    as_dict: dict[str, Any] = {"long name of a member": 1}
    as_dict["long name of itself"] = as_dict

    for value in (as_list, as_dict):
        with pytest.raises(UnstorableValue, match="contains itself") as refusal:
            encode(value)
        assert len(refusal.value.path) <= 200


def test_values_as_deep_as_allowed_come_back_whatever_they_are_made_of() -> None:
    in_tuples: Any = {1}
    for _ in range(MAX_DEPTH - 1):
        in_tuples = (in_tuples,)

    assert decode(encode(in_tuples)) == in_tuples
    assert decode(encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    assert decode(encode(nested(MAX_DEPTH, WHEN))) == nested(MAX_DEPTH, WHEN)
    for value in (nested(MAX_DEPTH + 1), (in_tuples,)):
        with pytest.raises(UnstorableValue, match=f"deeper than {MAX_DEPTH} levels"):
            encode(value)


# Built-in types


@pytest.mark.parametrize(
    ("value", "stored", "plain"),
    [
        (WHEN, '{"$type":"datetime","value":"2026-11-20T08:30:00+00:00"}', "2026-11-20T08:30:00+00:00"),
        (date(2026, 11, 20), '{"$type":"date","value":"2026-11-20"}', "2026-11-20"),
        (time(8, 30), '{"$type":"time","value":"08:30:00"}', "08:30:00"),
        (timedelta(hours=1, microseconds=1), '{"$type":"timedelta","value":3600.000001}', 3600.000001),
        (UUID(int=1), '{"$type":"UUID","value":"00000000-0000-0000-0000-000000000001"}', str(UUID(int=1))),
        (Decimal("1.50"), '{"$type":"Decimal","value":"1.50"}', "1.50"),
        (b"\x00\xff", '{"$type":"bytes","value":"AP8="}', "AP8="),
        ((1, (2,)), '{"$type":"tuple","value":[1,{"$type":"tuple","value":[2]}]}', [1, [2]]),
        ({"b", "a"}, '{"$type":"set","value":["a","b"]}', ["a", "b"]),
        (frozenset([2]), '{"$type":"frozenset","value":[2]}', [2]),
    ],
    ids=type_name,
)
def test_built_in_types_are_readable_objects_and_come_back(value: Any, stored: str, plain: Any) -> None:
    assert encode(value) == stored
    assert decode(stored) == value
    assert type(decode(stored)) is type(value)
    assert decode_plain(stored) == plain


def test_an_offset_from_utc_is_kept() -> None:
    there = WHEN.astimezone(timezone(timedelta(hours=5, minutes=45)))

    assert decode(encode(there)).utcoffset() == timedelta(hours=5, minutes=45)
    assert decode(encode(WHEN.replace(tzinfo=None))).tzinfo is None


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (
            datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
            '{"$type":"datetime","value":"2026-10-25T02:30:00+01:00","$zone":"Europe/Berlin","$fold":1}',
        ),
        (
            datetime(2026, 10, 25, 2, 30, fold=1),
            '{"$type":"datetime","value":"2026-10-25T02:30:00","$fold":1}',
        ),
        (datetime(1800, 1, 1, tzinfo=BERLIN), None),
        (time(8, 30, tzinfo=BERLIN), '{"$type":"time","value":"08:30:00","$zone":"Europe/Berlin"}'),
        (time(8, 30, tzinfo=timezone(timedelta(hours=5))), '{"$type":"time","value":"08:30:00+05:00"}'),
        (time(2, 30, fold=1), '{"$type":"time","value":"02:30:00","$fold":1}'),
        (
            WHEN.astimezone(timezone(timedelta(hours=1), "CET")),
            '{"$type":"datetime","value":"2026-11-20T09:30:00+01:00","$tzname":"CET"}',
        ),
        (WHEN.astimezone(ZoneInfo("UTC")), None),
        (timedelta.max, '{"$type":"timedelta","value":86400000000000.0,"$exact":[999999999,86399,999999]}'),
        (timedelta.min, None),
        (timedelta(days=200_000_000, microseconds=1), None),
    ],
    ids=repr,
)
def test_zones_fold_and_long_times_come_back(value: Any, stored: str | None) -> None:
    back = value
    for _ in range(5):
        back = decode(encode(back))

    assert stored is None or encode(value) == stored
    assert (type(back), back) == (type(value), value)
    zone, zone_back = getattr(value, "tzinfo", None), getattr(back, "tzinfo", None)
    assert type(zone_back) is type(zone)
    assert (zone_back == zone) or zone_back is zone
    assert getattr(back, "fold", 0) == getattr(value, "fold", 0)
    if zone is not None:
        assert back.tzname() == value.tzname()


def test_a_zone_that_this_machine_does_not_know_is_told_by_name() -> None:
    with pytest.raises(
        ChangedType, match=r"cannot read 'k' as datetime: .* no time zone 'Mars/Base'; pip install tzdata"
    ):
        decode('{"$type":"datetime","value":"2026-10-25T02:30:00+01:00","$zone":"Mars/Base"}', "k")


def test_equal_sets_give_equal_text_whatever_their_order_in_memory() -> None:
    # 8 collides with 0 in a small table, so that insertion order shows.
    forwards, backwards = {0, 8}, {8, 0}
    assert list(forwards) != list(backwards)

    assert encode(forwards) == encode(backwards)
    assert encode({frozenset({0, 8}), (1, "a"), None}) == encode({None, (1, "a"), frozenset({8, 0})})


# A user's own $type


@pytest.mark.parametrize(
    "value",
    [
        {"$type": "datetime", "value": "not ours"},
        {"$type": None},
        {"$type": {"$type": "dict", "value": {}}},
        [{"$type": "dict", "value": {"$type": 1, "at": WHEN}}],
        "a text with $type in it",
        {"a": "$type"},
        {"$value": 1, "$typed": 2},
    ],
)
def test_dicts_that_have_the_key_type_themselves_come_back(value: Any) -> None:
    assert decode(encode(value)) == value


def test_expressions_see_dicts_with_the_key_type_as_they_were() -> None:
    assert decode_plain(encode({"$type": "mine", "at": [WHEN]})) == {
        "$type": "mine",
        "at": [WHEN.isoformat()],
    }


# Registered types


def test_a_registered_model_is_stored_with_its_fields_inline_and_comes_back() -> None:
    register_type(Source)
    register_type(Report)
    report = Report(title="Tides", sources=[Source(url="a", fetched=WHEN)], tags={"b", "a"})

    text = encode(report)

    assert json.loads(text) == {
        "$type": "Report",
        "title": "Tides",
        "sources": [
            {"$type": "Source", "url": "a", "fetched": {"$type": "datetime", "value": WHEN.isoformat()}}
        ],
        "tags": {"$type": "set", "value": ["a", "b"]},
    }
    assert decode(text) == report
    assert decode_plain(text) == {
        "title": "Tides",
        "sources": [{"url": "a", "fetched": WHEN.isoformat()}],
        "tags": ["a", "b"],
    }


def test_models_with_aliases_extras_and_excluded_fields_come_back() -> None:
    @register_type
    class Aliased(BaseModel):
        model_config = ConfigDict(extra="allow")
        short: int = Field(alias="aVeryLongName")
        either: int = Field(validation_alias=AliasChoices(AliasPath("deep", 0), "flat"))
        client: Any = Field(default=None, exclude=True)

    value = Aliased.model_validate({"aVeryLongName": 1, "flat": 2, "more": WHEN})

    assert json.loads(encode(value))["short"] == 1
    assert decode(encode(value)) == value
    value.client = Opaque()
    assert decode(encode(value)).client is None


def test_root_models_and_generic_models_come_back() -> None:
    register_type(RootModel[list[int]])

    assert decode(encode(RootModel[list[int]]([1, 2]))) == RootModel[list[int]]([1, 2])


def test_a_frozen_slotted_dataclass_comes_back() -> None:
    register_type(Point)

    assert encode(Point(1)) == '{"$type":"Point","x":1,"y":0.0}'
    assert decode(encode({"at": [Point(1, 2.5)]})) == {"at": [Point(1, 2.5)]}


def test_a_pydantic_dataclass_with_an_alias_comes_back() -> None:
    @register_type
    @pydantic_dataclass
    class Box:
        width: int = Field(alias="w")

    assert decode(encode(Box(w=3))) == Box(w=3)


def test_a_dataclass_field_that_is_new_since_it_was_stored_gets_its_default() -> None:
    register_type(Point)

    assert decode('{"$type":"Point","x":1}') == Point(1, 0.0)


@pytest.mark.parametrize("member", [Color.RED, Color.POINT, Level.LOW, Mood.GOOD, Right.READ | Right.WRITE])
def test_members_of_a_registered_enum_come_back_as_members(member: Enum) -> None:
    register_type(type(member))

    assert decode(encode([member])) == [member]
    assert type(decode(encode(member))) is type(member)
    assert decode_plain(encode(member)) == decode_plain(encode(member.value))


def test_enum_members_are_stored_by_value() -> None:
    register_type(Mood)

    assert encode(Mood.GOOD) == '{"$type":"Mood","value":"good"}'


# Registering


def test_register_type_decorates_with_and_without_arguments() -> None:
    @register_type(name="kind")
    class Kind(Enum):
        A = 1

    assert register_type(Source) is Source
    assert encode(Kind.A) == '{"$type":"kind","value":1}'


def test_the_same_class_defined_again_replaces_the_first() -> None:
    def cell() -> type[BaseModel]:
        @register_type
        class Note(BaseModel):
            text: str

        return Note

    first, second = cell(), cell()

    assert type(decode(encode(first(text="x")))) is second


def test_another_class_under_the_same_name_is_refused() -> None:
    register_type(Source)

    with pytest.raises(InvalidName, match=r"'Source' cannot be a type: .*test_codec\.Source has that name"):
        register_type(Point, name="Source")


@pytest.mark.parametrize("name", ["datetime", "dict", "tuple", ""])
def test_names_of_built_in_types_are_taken(name: str) -> None:
    with pytest.raises(InvalidName):
        register_type(Source, name=name)


def test_other_classes_are_refused_when_registered() -> None:
    with pytest.raises(TypeError, match="Opaque is no pydantic model, dataclass"):
        register_type(Opaque)


# Reading what is not as it should be


def test_an_unregistered_tag_is_a_typed_error_that_says_what_to_do() -> None:
    with pytest.raises(UnknownType, match=r"cannot read 'r': no type is registered as 'os\.system'") as error:
        decode('[{"$type":"os.system","value":"true"}]', "r")

    assert error.value.type_name == "os.system"


def test_expressions_read_unregistered_types_as_plain_data() -> None:
    assert decode_plain('[{"$type":"Elsewhere","a":{"$type":"Mood","value":"good"}}]') == [{"a": "good"}]


def test_a_registered_model_with_the_one_field_value_stays_a_dict_for_expressions() -> None:
    @register_type
    class Reading(BaseModel):
        value: float

    assert decode_plain(encode(Reading(value=1.5))) == {"value": 1.5}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "[1] 2",
        "'a'",
        '"\\ud800"',
        "[" * 300 + "]" * 300,
        '{"$type":"datetime"}',
        '{"$type":"datetime","value":"yesterday"}',
        '{"$type":"bytes","value":"??"}',
        '{"$type":"set","value":"abc"}',
        '{"$type":"set","value":[[1]]}',
        '{"$type":"dict","value":[1]}',
        '{"$type":"Point","x":1,"$attributes":1}',
    ],
)
def test_text_that_encode_did_not_write_is_corrupt_state(text: str) -> None:
    register_type(Point)
    register_type(Mood)

    with pytest.raises(CorruptState, match="'k'"):
        decode(text, "k")


def test_texts_decoded_together_are_what_they_are_alone():
    values = [1, "a,b", [], {"x": {1, 2}}, (1, 2), None]

    assert decode_all([encode(value) for value in values]) == values
    assert decode_all([]) == []


@pytest.mark.parametrize("texts", [["1", "2,3"], ["", "1"], [""], ["1]", "[2"]])
def test_texts_decoded_together_are_corrupt_if_one_is_no_value(texts):
    with pytest.raises(CorruptState, match="'k'"):
        decode_all(texts, "k")
