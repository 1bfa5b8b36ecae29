"""Instances of models and dataclasses come back as they were, at any number of hops."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from graphflow.codec import decode, decode_plain, encode, register_type, table
from graphflow.codec.built_in import BUILT_IN
from graphflow.errors import ChangedType, InvalidName, UnstorableValue

T = TypeVar("T")


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


def after_hops(value: Any, hops: int = 5) -> Any:
    for _ in range(hops):
        value = decode(encode(value))
    return value


def assert_same_model(back: BaseModel, value: BaseModel) -> None:
    assert type(back) is type(value)
    assert back == value
    assert back.__dict__ == value.__dict__
    assert list(back.__dict__) == list(value.__dict__)
    assert back.model_fields_set == value.model_fields_set
    assert back.model_extra == value.model_extra
    assert back.__pydantic_private__ == value.__pydantic_private__


class Part(BaseModel):
    size: int = 1


class Whole(BaseModel):
    part: Part
    parts: list[Part | None] = []
    by_name: dict[str, Part] = {}


class SpecialPart(Part):
    colour: str = "red"


class Box(BaseModel, Generic[T]):
    content: T


class Tree(BaseModel):
    branches: list[Tree] = []


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Home(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


# Models


def test_a_validator_that_changes_changes_nothing_on_the_way() -> None:
    @register_type
    class Price(BaseModel):
        cents: int

        @field_validator("cents")
        @classmethod
        def in_cents(cls, value: int) -> int:
            return value * 100

        @model_validator(mode="after")
        def count(self) -> Any:
            self.__dict__["cents"] += 1
            return self

    value = Price(cents=3)

    assert value.cents == 301
    assert_same_model(after_hops(value), value)


def test_a_field_that_was_set_to_something_invalid_comes_back_as_it_is() -> None:
    @register_type
    class Size(BaseModel):
        width: int = Field(gt=0)

    value = Size(width=1)
    value.width = -1

    assert after_hops(value).width == -1
    value.width = "wide"  # type: ignore[assignment]
    assert after_hops(value).width == "wide"


def test_a_partial_update_is_still_partial() -> None:
    register_type(Part)
    untouched, touched = Part(), Part(size=1)

    assert json.loads(encode(untouched)) == {"$type": "Part", "size": 1, "$unset": ["size"]}
    assert json.loads(encode(touched)) == {"$type": "Part", "size": 1}
    assert after_hops(untouched).model_dump(exclude_unset=True) == {}
    assert after_hops(touched).model_dump(exclude_unset=True) == {"size": 1}
    assert decode_plain(encode(untouched)) == {"size": 1}


def test_a_model_that_was_constructed_in_part_comes_back_in_part() -> None:
    register_type(Whole)
    value = Whole.model_construct(parts=[])
    del value.parts

    back = after_hops(value)

    assert_same_model(back, value)
    assert not hasattr(back, "part")
    assert decode_plain(encode(value)) == {"by_name": {}}


def test_private_attributes_come_back() -> None:
    @register_type
    class Account(BaseModel):
        id: int
        _seen: int = PrivateAttr(default=0)
        _log: list[str] = PrivateAttr(default_factory=list)
        _unset: int = PrivateAttr()

    value = Account(id=1)
    value._seen = 3
    value._log.append("x")

    back = after_hops(value)

    assert_same_model(back, value)
    assert json.loads(encode(value))["$attributes"] == {"_seen": 3, "_log": ["x"]}
    assert decode_plain(encode(value)) == {"id": 1}


def test_a_private_attribute_that_cannot_be_stored_is_refused_with_advice_that_works() -> None:
    @register_type
    class Live(BaseModel):
        id: int
        _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @register_type
    class Cached(BaseModel):
        id: int

        @functools.cached_property
        def lock(self) -> Any:
            return threading.Lock()

    with pytest.raises(UnstorableValue, match=r"'k' at \._lock: .*cached_property"):
        encode(Live(id=1), "k")
    value = Cached(id=1)
    assert value.lock is value.lock
    assert after_hops(value) == Cached(id=1)


def test_computed_and_cached_properties_are_made_anew() -> None:
    @register_type
    class Square(BaseModel):
        side: int

        @computed_field  # type: ignore[prop-decorator]
        @functools.cached_property
        def area(self) -> int:
            return self.side**2

    value = Square(side=3)
    assert value.area == 9

    assert json.loads(encode(value)) == {"$type": "Square", "side": 3}
    assert after_hops(value).area == 9


def test_aliases_of_any_kind_come_back() -> None:
    @register_type
    class Aliased(BaseModel):
        short: int = Field(alias="aVeryLongName")
        either: int = Field(validation_alias=AliasChoices(AliasPath("deep", 0), "flat"))
        inside: int = Field(validation_alias=AliasPath("a", 0), default=0)

    value = Aliased.model_validate({"aVeryLongName": 1, "flat": 2, "a": [3]})

    assert_same_model(after_hops(value), value)


def test_extra_fields_come_back_whatever_they_are_called() -> None:
    @register_type
    class Loose(BaseModel):
        model_config = ConfigDict(extra="allow")
        size: int = Field(alias="theSize")

    plain = Loose.model_validate({"theSize": 1, "b": datetime(2026, 1, 1, tzinfo=UTC), "a": 2})
    clashing = Loose.model_validate({"theSize": 1, "size": 2, "$type": "x", "$unset": 3})

    assert json.loads(encode(plain))["a"] == 2
    assert_same_model(after_hops(plain), plain)
    assert_same_model(after_hops(clashing), clashing)
    assert decode_plain(encode(clashing))["$type"] == "x"


def test_frozen_root_and_generic_models_come_back() -> None:
    @register_type
    class Frozen(BaseModel):
        model_config = ConfigDict(frozen=True)
        at: tuple[int, ...]

    @register_type
    class Names(RootModel[list[str]]):
        _seen: int = 0

    names = Names(["a"])
    names._seen = 2
    register_type(RootModel[list[int]])
    register_type(Box[int])
    register_type(Box[list[Part]])

    for value in (
        Frozen(at=(1, 2)),
        RootModel[list[int]]([1, 2]),
        names,
        Box[int](content=1),
        Box[list[Part]](content=[Part()]),
    ):
        assert_same_model(after_hops(value), value)
    assert hash(after_hops(Frozen(at=(1,)))) == hash(Frozen(at=(1,)))
    assert json.loads(encode(Box[int](content=1))) == {"$type": "Box[int]", "content": 1}


def test_numbers_beyond_the_precision_of_a_float_come_back() -> None:
    @register_type
    class Bill(BaseModel):
        total: Decimal
        ratio: float = 0.1

    value = Bill(total=Decimal("12345678901234567890.12"))

    assert_same_model(after_hops(value), value)
    assert str(after_hops(value).total) == "12345678901234567890.12"


def test_discriminated_unions_and_subclasses_in_a_field_of_the_base_type_come_back() -> None:
    register_type(Home)
    register_type(Whole)
    register_type(SpecialPart)
    for value in (
        Home(pet=Dog()),
        Home(pet=Cat(lives=1)),
        Whole(part=SpecialPart(colour="blue"), parts=[None, Part()], by_name={"a": SpecialPart()}),
    ):
        back = after_hops(value)
        assert_same_model(back, value)
    assert type(back.part) is SpecialPart
    assert back.part.model_fields_set == {"colour"}


def test_excluded_fields_are_left_out_and_get_their_default_again() -> None:
    @register_type
    class Client(BaseModel):
        url: str
        handle: Any = Field(default=None, exclude=True)
        key: SecretStr = Field(default=SecretStr(""), exclude=True)
        needed: int = Field(exclude=True)

    back = after_hops(Client(url="x", handle=threading.Lock(), key=SecretStr("hunter2"), needed=1))

    assert (back.url, back.handle, back.needed) == ("x", None, 1)
    assert back.model_fields_set == {"url", "needed"}
    assert "hunter2" not in encode(back)


# Dataclasses


def test_dataclasses_come_back_without_their_constructor() -> None:
    made = []

    @register_type
    @dataclasses.dataclass
    class Doubling:
        x: int
        seed: dataclasses.InitVar[int]
        total: int = dataclasses.field(init=False, default=0)
        late: int = dataclasses.field(init=False)

        def __post_init__(self, seed: int) -> None:
            made.append(seed)
            self.x *= 2
            self.beside = [seed]

    value = Doubling(2, seed=7)
    value.total = 9

    back = after_hops(value)

    assert (back.x, back.total, back.beside) == (4, 9, [7])
    assert not hasattr(back, "late")
    assert made == [7]
    value.late = 1
    assert after_hops(value).late == 1


def test_frozen_slotted_and_pydantic_dataclasses_come_back() -> None:
    @register_type
    @dataclasses.dataclass(frozen=True, slots=True)
    class Point:
        x: int
        y: float = 0.0
        z: int = dataclasses.field(init=False)

    @register_type
    @pydantic_dataclass
    class Sized:
        width: int = Field(alias="w", gt=0)
        tags: set[str] = Field(default_factory=set)

    sized = Sized(w=3)  # type: ignore[call-arg]
    sized.width = -1

    assert after_hops(Point(1)).x == 1
    assert not hasattr(after_hops(Point(1)), "z")
    assert after_hops(sized) == sized
    assert vars(after_hops(sized)) == vars(sized)


def test_attributes_beside_the_fields_come_back_or_are_refused_by_name() -> None:
    @register_type
    @dataclasses.dataclass
    class Open:
        x: int

        @functools.cached_property
        def double(self) -> int:
            return self.x * 2

    value: Any = Open(1)
    assert value.double == 2
    assert encode(value) == '{"$type":"Open","x":1}'
    value.note = (1, 2)
    assert after_hops(value).note == (1, 2)
    value.handle = threading.Lock()
    with pytest.raises(UnstorableValue, match=r"at \.handle: .*cached_property"):
        encode(value)


# What is refused when the class is registered


class Opaque:
    pass


class Shape:
    pass


@dataclasses.dataclass
class Circle(Shape):
    radius: int


def fields_that_cannot_be_stored() -> Iterator[tuple[str, Any]]:
    yield "opaque", Opaque
    yield "opaques", list[Opaque]
    yield "either", Opaque | SecretStr
    yield "secret", SecretStr
    yield "call", Callable[[], int]
    yield "kind", type[int]
    yield "by_number", dict[int, str]
    yield "lock", threading.Event
    yield "annotated", Annotated[Opaque, "a note"]


@pytest.mark.parametrize(("name", "annotation"), list(fields_that_cannot_be_stored()))
def test_a_field_of_which_no_value_can_be_stored_is_named(name: str, annotation: Any) -> None:
    namespace = {
        "__annotations__": {name: annotation},
        "model_config": ConfigDict(arbitrary_types_allowed=True),
    }
    model: Any = type(BaseModel)(
        "Model", (BaseModel,), {**namespace, "__module__": __name__, "__qualname__": "Model"}
    )
    plain = dataclasses.make_dataclass("Plain", [(name, annotation)])

    for cls in (model, plain):
        with pytest.raises(TypeError, match=rf"{cls.__name__}\.{name} cannot be stored: "):
            register_type(cls)
        assert cls not in table.writers


def test_a_field_of_which_a_value_might_be_stored_is_no_reason_to_refuse() -> None:
    @register_type
    class Open(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        anything: Any = None
        maybe: Opaque | None = None
        by_default: Opaque = None  # type: ignore[assignment]
        shape: Shape
        url: HttpUrl | None = None
        named: Annotated[Opaque, AfterValidator(lambda value: "name")] = None  # type: ignore[assignment]
        left_out: Opaque = Field(default_factory=Opaque, exclude=True)

    register_type(Circle)
    assert after_hops(Open(shape=Circle(1))).shape == Circle(1)


def test_a_class_that_holds_more_than_its_attributes_is_refused() -> None:
    @dataclasses.dataclass
    class Rows(dict[str, int]):
        title: str = ""

    with pytest.raises(TypeError, match="Rows is a dict, too, whose content is no field"):
        register_type(Rows)


def test_a_slot_of_a_model_is_refused_by_its_name() -> None:
    class Slotted(BaseModel):
        __slots__ = ("beside",)
        size: int

    with pytest.raises(
        TypeError, match=r"Slotted\.beside cannot be stored: it is a slot; make it a private attribute"
    ):
        register_type(Slotted)


def test_a_type_that_cannot_be_stored_is_no_matter_in_a_field_that_may_hold_something_else() -> None:
    inner = dataclasses.make_dataclass("Inner", [("lock", threading.Event)])
    only: Any = dataclasses.make_dataclass("Only", [("inner", inner)])
    either: Any = dataclasses.make_dataclass("Either", [("inner", inner | None)])

    with pytest.raises(TypeError, match=r"Only\.inner cannot be stored: Inner\.lock cannot be stored"):
        register_type(only)
    register_type(either)
    assert after_hops(either(None)) == either(None)
    with pytest.raises(UnstorableValue, match=r"register_type\(Inner\)"):
        encode(either(inner(threading.Event())))


def test_an_enum_whose_member_would_not_be_found_again_is_refused_by_its_name() -> None:
    class Kinds(Enum):
        PLAIN = 1
        LIVE = Opaque()

    with pytest.raises(TypeError, match=r"Kinds\.LIVE cannot be stored"):
        register_type(Kinds)


# What is registered along


def test_types_in_the_annotations_of_fields_are_registered_along() -> None:
    class Mood(Enum):
        GOOD = "good"

    @dataclasses.dataclass
    class Inner:
        mood: Any

    model: Any = type(BaseModel)(
        "Outer",
        (BaseModel,),
        {
            "__annotations__": {"inner": list[Inner], "moods": tuple[Mood, ...], "box": Box[Part]},
            "__module__": __name__,
            "__qualname__": "Outer",
        },
    )

    register_type(model)

    assert {"Outer", "Inner", "Mood", "Box[Part]", "Part"} <= table.by_name.keys()
    value = model(inner=[Inner(Mood.GOOD)], moods=(Mood.GOOD,), box=Box[Part](content=Part()))
    assert_same_model(after_hops(value), value)


def test_a_model_of_itself_is_registered_once() -> None:
    register_type(Tree)
    value = Tree(branches=[Tree(), Tree(branches=[Tree()])])

    assert_same_model(after_hops(value), value)


def test_a_subclass_that_nobody_registered_is_refused_with_its_path() -> None:
    register_type(Whole)

    with pytest.raises(UnstorableValue, match=r"'k' at \.part: .* register_type\(SpecialPart\)"):
        encode(Whole(part=SpecialPart()), "k")


def test_a_type_that_comes_along_takes_no_name_that_another_has() -> None:
    other = type(BaseModel)("Part", (BaseModel,), {"__module__": "elsewhere", "__qualname__": "Part"})
    register_type(other)

    with pytest.raises(InvalidName, match=r"it came with the field Whole\.part; register it before that"):
        register_type(Whole)
    register_type(Part, name="our.Part")
    register_type(Whole)
    assert_same_model(after_hops(Whole(part=Part())), Whole(part=Part()))


def test_generic_models_of_two_classes_of_one_name_are_told_apart() -> None:
    other: Any = type(BaseModel)("Part", (BaseModel,), {"__module__": "elsewhere", "__qualname__": "Part"})
    register_type(Part, name="ours")
    register_type(other, name="theirs")
    register_type(Box[Part])

    with pytest.raises(InvalidName, match=r"Box\[Part\] has that name"):
        register_type(Box[other])


# Classes that have changed since


def test_a_field_that_is_new_since_is_filled_by_its_default_or_refused_by_name() -> None:
    @register_type
    class Old(BaseModel):
        a: int
        b: list[int] = Field(default_factory=list)

    @register_type
    @dataclasses.dataclass
    class Plain:
        a: int
        b: list[int] = dataclasses.field(default_factory=list)

    back = decode('{"$type":"Old","a":1}')
    assert (back.b, back.model_fields_set) == ([], {"a"})
    assert decode('{"$type":"Plain","a":1}') == Plain(1)
    for name in ("Old", "Plain"):
        with pytest.raises(
            ChangedType, match=rf"cannot read 'k' as {name}: .*gained the field 'a'.*no default; give it one"
        ):
            decode(f'{{"$type":"{name}","b":[]}}', "k")


def test_a_field_that_the_class_has_lost_is_refused_by_name_and_not_dropped() -> None:
    register_type(Part)
    register_type(Circle)

    for text in ('{"$type":"Part","size":1,"weight":2}', '{"$type":"Circle","radius":1,"weight":2}'):
        with pytest.raises(
            ChangedType, match=r"has lost the field 'weight' since it was stored.*with a default"
        ):
            decode(text, "k")


def test_a_member_that_an_enum_has_lost_is_told_by_the_name_of_the_enum() -> None:
    class Mood(Enum):
        GOOD = "good"

    register_type(Mood)

    with pytest.raises(ChangedType, match="cannot read 'k' as Mood: it has no member with the value"):
        decode('{"$type":"Mood","value":"dire"}', "k")


def test_extra_fields_that_the_class_no_longer_takes_are_refused() -> None:
    register_type(Part)

    for text in ('{"$type":"Part","size":1,"$extra":{"size":2}}', '{"$type":"Part","size":1,"more":2}'):
        with pytest.raises(ChangedType, match="would be lost"):
            decode(text, "k")


# Text of earlier versions


def test_text_of_earlier_versions_is_read_as_it_was() -> None:
    @register_type
    class Account(BaseModel):
        id: int
        _seen: list[int] = PrivateAttr(default_factory=list)

        def model_post_init(self, context: Any) -> None:
            self._seen.append(self.id)

    @register_type
    @dataclasses.dataclass
    class Doubling:
        x: int
        factor: dataclasses.InitVar[int] = 2

        def __post_init__(self, factor: int) -> None:
            self.x *= factor
            self.beside = factor

    account = decode('{"$type":"Account","id":1}')
    assert (account.id, account._seen, account.model_fields_set) == (1, [1], {"id"})
    assert_same_model(after_hops(account), account)
    doubling = decode('{"$type":"Doubling","x":4}')
    assert (doubling.x, doubling.beside) == (4, 2)
    register_type(Part)
    assert decode('{"$type":"Part","size":1}').model_fields_set == {"size"}


def test_a_private_attribute_that_is_new_since_gets_its_default() -> None:
    @register_type
    class Account(BaseModel):
        id: int
        _old: int = 0
        _new: list[int] = PrivateAttr(default_factory=list)

    back = decode('{"$type":"Account","id":1,"$attributes":{"_old":3}}')

    assert (back._old, back._new) == (3, [])
