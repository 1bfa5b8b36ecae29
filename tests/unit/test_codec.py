import dataclasses
import json
import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pydantic
import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel, SecretBytes, SecretStr
from pydantic.dataclasses import dataclass as pydantic_dataclass

from graphflow import codec
from graphflow.codec import MAX_DEPTH, decode, decode_all, decode_plain, encode, register_type
from graphflow.errors import CorruptState, InvalidName, UnknownType, UnstorableValue


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
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_by_name", dict(codec._by_name))
    monkeypatch.setattr(codec, "_writers", dict(codec._writers))


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
        (defaultdict(list, {"a": [1]}), '{"a":[1]}'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (Counter("aab"), '{"a":2,"b":1}'),
        (type("Text", (str,), {})("hello"), '"hello"'),
        ([type("Count", (int,), {})(7)], "[7]"),
        ({type("Key", (str,), {})("k"): type("Share", (float,), {})(0.5)}, '{"k":0.5}'),
    ],
)
def test_subclasses_of_json_types_are_stored_as_these(value: Any, stored: str) -> None:
    assert encode(value) == stored
    assert decode(stored) == value


# What is refused


class Opaque:
    pass


@pytest.mark.parametrize(
    ("value", "type_name", "path", "says"),
    [
        ({"a": [1, Opaque()]}, "Opaque", "['a'][1]", "register_type(Opaque)"),
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
        ({"s": {Opaque}}, "type", "['s']{…}", "neither JSON nor registered"),
        (bytearray(b"x"), "bytearray", "", "convert it"),
        (range(3), "range", "", "convert it"),
        (lambda: None, "function", "", "a function is no value"),
        (type("Later", (datetime,), {})(2026, 1, 1), "Later", "", "convert it"),
        (timedelta(days=200_000_000, microseconds=1), "timedelta", "", "centuries"),
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


def test_an_unregistered_model_inside_a_registered_one_is_named_with_its_path() -> None:
    register_type(Report)

    with pytest.raises(UnstorableValue, match=r"'r' at \.sources\[0\]: .* register_type\(Source\)"):
        encode(Report(title="x", sources=[Source(url="a")]), "r")


def test_a_secret_inside_a_model_is_refused() -> None:
    @register_type
    class Login(BaseModel):
        password: SecretStr

    with pytest.raises(UnstorableValue, match=r"at \.password: a SecretStr is secret"):
        encode(Login(password=SecretStr("hunter2")))


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


def test_an_extra_field_called_type_is_refused() -> None:
    @register_type
    class Loose(BaseModel):
        model_config = ConfigDict(extra="allow")

    with pytest.raises(UnstorableValue, match=r"extra field called \$type"):
        encode(Loose.model_validate({"$type": "x"}))


def test_root_models_and_generic_models_come_back() -> None:
    register_type(RootModel[list[int]])

    assert decode(encode(RootModel[list[int]]([1, 2]))) == RootModel[list[int]]([1, 2])


def test_a_frozen_slotted_dataclass_comes_back() -> None:
    register_type(Point)

    assert encode(Point(1)) == '{"$type":"Point","x":1,"y":0.0}'
    assert decode(encode({"at": [Point(1, 2.5)]})) == {"at": [Point(1, 2.5)]}


def test_a_dataclass_comes_back_exactly_whatever_its_post_init_does() -> None:
    @register_type
    @dataclasses.dataclass
    class Doubling:
        x: int
        total: int = dataclasses.field(init=False, default=0)

        def __post_init__(self) -> None:
            self.x *= 2
            self.handle = Opaque()

    value = Doubling(2)
    value.total = 9

    back = decode(encode(value))

    assert (back.x, back.total) == (4, 9)
    assert isinstance(back.handle, Opaque)


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


def test_classes_that_cannot_be_rebuilt_are_refused_when_registered() -> None:
    @dataclasses.dataclass
    class NeedsMore:
        x: int
        seed: dataclasses.InitVar[int]

    class Deep(BaseModel):
        x: int = Field(validation_alias=AliasPath("a", 0))

    with pytest.raises(TypeError, match="NeedsMore needs 'seed', which is no field"):
        register_type(NeedsMore)
    with pytest.raises(TypeError, match=r"Deep\.x is read from inside another input"):
        register_type(Deep)
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
        '{"$type":"Point","z":1}',
        '{"$type":"Mood","value":"dire"}',
    ],
)
def test_text_that_encode_did_not_write_is_corrupt_state(text: str) -> None:
    register_type(Point)
    register_type(Mood)

    with pytest.raises(CorruptState, match="'k'"):
        decode(text, "k")


def test_a_model_that_no_longer_accepts_its_data_says_where_without_the_payload() -> None:
    register_type(Source)

    with pytest.raises(CorruptState, match=r"Source does not accept .*fetched: Input should be") as error:
        decode('{"$type":"Source","url":"hunter2","fetched":"hunter2"}', "k")

    assert "hunter2" not in str(error.value)


def test_texts_decoded_together_are_what_they_are_alone():
    values = [1, "a,b", [], {"x": {1, 2}}, (1, 2), None]

    assert decode_all([encode(value) for value in values]) == values
    assert decode_all([]) == []


@pytest.mark.parametrize("texts", [["1", "2,3"], ["", "1"], [""], ["1]", "[2"]])
def test_texts_decoded_together_are_corrupt_if_one_is_no_value(texts):
    with pytest.raises(CorruptState, match="'k'"):
        decode_all(texts, "k")
