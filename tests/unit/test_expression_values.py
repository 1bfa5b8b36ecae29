"""What conditions make of values that JSON has not: what Python would, or an error that names both types."""

from __future__ import annotations

import enum
import itertools
import operator
import time as clock
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from graphflow.codec import encode, register_type
from graphflow.errors import BudgetExceeded, EvaluationError
from graphflow.expressions import MISSING, parse_expression, seen

#: A second on a slow machine; an order of magnitude above what anything here may take.
SLOW_MACHINE_SECONDS = 4


@register_type(name="seen.Level")
class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


@register_type(name="seen.Paint")
class Paint(enum.Enum):
    RED = 1
    BLUE = 2


@register_type(name="seen.Rank")
class Rank(enum.IntEnum):
    FIRST = 1
    SECOND = 2


@register_type(name="seen.Grade")
class Grade(enum.StrEnum):
    A = "a"
    B = "b"


@register_type(name="seen.Severity")
class Severity(str, enum.Enum):  # noqa: UP042 - the values are texts, the order is not theirs
    """By value `low` would come after `high`."""

    LOW = "low"
    HIGH = "high"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Severity):
            return NotImplemented
        order = list(Severity)
        return order.index(self) < order.index(other)

    __le__ = lambda self, other: self < other or self == other  # noqa: E731
    __gt__ = lambda self, other: not self <= other  # noqa: E731
    __ge__ = lambda self, other: not self < other  # noqa: E731


@register_type(name="seen.Rights")
class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@register_type(name="seen.Broken")
class Broken(enum.Enum):
    A = 1
    B = 2

    def __lt__(self, other: object) -> bool:
        raise RuntimeError("no order today")


@register_type(name="seen.Empty")
class Empty(enum.Enum):
    OFF = 0


@register_type(name="seen.Price")
@dataclass(frozen=True)
class Price:
    amount: Decimal
    level: Level


@register_type(name="seen.Order")
class Order(BaseModel):
    due: date
    price: Price


DAY = date(2026, 11, 20)
NOON = datetime(2026, 11, 20, 12)
NOON_UTC = datetime(2026, 11, 20, 12, tzinfo=UTC)
IDENTITY = UUID("12345678-1234-5678-1234-567812345678")


def evaluate(text: str, /, **values: Any) -> Any:
    """On the values as they are stored."""
    stored = {name: encode(value) for name, value in values.items()}
    return parse_expression(text).evaluate(
        lambda name: seen(stored[name], name) if name in stored else MISSING, lambda name: MISSING
    )


def test_decimals_are_compared_as_numbers() -> None:
    assert evaluate("limit > spent", limit=Decimal(100), spent=Decimal("9.50")) is True
    assert evaluate("limit == spent", limit=Decimal("1.5"), spent=Decimal("1.50")) is True
    assert evaluate("limit > 9 and limit < 100.5 and limit == 100", limit=Decimal(100)) is True
    assert evaluate("max(prices)", prices=[Decimal("9.5"), Decimal(10)]) == Decimal(10)
    assert evaluate("sorted(prices)", prices=[Decimal(10), Decimal("9.5")]) == [Decimal("9.5"), Decimal(10)]
    assert evaluate("sum(prices) * 2 - 1", prices=[Decimal("0.1"), Decimal("0.2")]) == Decimal("-0.4")
    assert evaluate("price in prices", price=Decimal("1.0"), prices=[Decimal(1)]) is True


NUMBERS: list[Any] = [3, -2, 0, True, 2.5, Decimal("2.5"), Decimal(-7), Decimal("0.1")]
TIMES: list[Any] = [
    *(DAY, NOON, NOON_UTC, datetime(2026, 11, 20, 13, tzinfo=timezone(timedelta(hours=2)))),
    *(time(8, 30), time(8, 30, tzinfo=UTC), timedelta(hours=2), timedelta(microseconds=-5)),
]
OTHERS: list[Any] = [
    *("text", b"bytes", None, IDENTITY, UUID(int=5), (1, 2), {1, 2}, frozenset({2}), [1], {"a": 1}),
    *(Rank.FIRST, Rank.SECOND, Grade.A, Grade.B),
]
#: Never equal, and refused where Python says false: what used to be seen as the other.
UNLIKE = {
    **{kind: {str, Grade} for kind in (date, datetime, time, UUID, Decimal, bytes)},
    timedelta: {int, float, Rank},
}
SIGNS: dict[str, Any] = {
    **{"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt},
    **{"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv},
    **{"//": operator.floordiv, "%": operator.mod},
}


@pytest.mark.parametrize("sign", SIGNS)
def test_operators_on_values_of_any_two_types_give_what_python_gives_or_an_error(sign: str) -> None:
    seen_pairs = refused = 0
    for left, right in itertools.product([*NUMBERS, *TIMES, *OTHERS], repeat=2):
        if sign == "%" and isinstance(left, str | bytes):
            continue
        try:
            expected = SIGNS[sign](left, right)
        except (TypeError, ArithmeticError):
            expected = EvaluationError
        never_equal = type(left) in UNLIKE.get(type(right), ()) or type(right) in UNLIKE.get(type(left), ())
        if never_equal and sign in ("==", "!="):
            expected = EvaluationError

        if expected is EvaluationError:
            with pytest.raises(EvaluationError):
                evaluate(f"a {sign} b", a=left, b=right)
            refused += 1
        else:
            result = evaluate(f"a {sign} b", a=left, b=right)
            assert result == expected, (left, sign, right)
            assert type(result) is type(expected)
            seen_pairs += 1

    assert seen_pairs > 20
    assert refused > 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("level > other", "'>' does not apply to Level and Level"),
        ("level > 'low'", "'>' does not apply to Level and str"),
        ("'low' < level", "'<' does not apply to str and Level"),
        ("level + 'x'", "'+' does not apply to Level and str"),
        ("max([level, other])", "Level and Level have no order"),
        ("sorted([level, 'low'])", "Level and str have no order"),
        ("day > text", "'>' does not apply to date and str"),
        ("day == text", "'==' compares date and str, which are never equal"),
        ("text != day", "'!=' compares str and date, which are never equal"),
        ("text in [day]", "'in' compares str and date, which are never equal"),
        ("day not in [text]", "'not in' compares date and str, which are never equal"),
        ("{'2026-11-20': 1}[day]", "compares date and str"),
        ("day < noon", "'<' does not apply to date and datetime without a zone"),
        ("noon < noon_utc", "datetime without a zone and datetime with a zone"),
        ("price == text", "'==' compares Decimal and str"),
        ("price > text", "'>' does not apply to Decimal and str"),
        ("price + 0.5", "'+' does not apply to Decimal and float"),
        ("price / 0", "'/' fails on Decimal and int"),
        ("took > count", "'>' does not apply to timedelta and int"),
        ("took == count", "'==' compares timedelta and int"),
        ("took > price", "'>' does not apply to timedelta and Decimal"),
        ("day + day", "'+' does not apply to date and date"),
        ("data == text", "'==' compares bytes and str"),
        ("data % 1", "'%' does not apply to bytes and int"),
        ("sum([day])", "sum() cannot add date to int"),
        ("identity < 5", "'<' does not apply to UUID and int"),
        ("day.year", "cannot read .year of date"),
        ("len(level)", "len() does not apply to Level"),
        ("broken < broken", "'<' does not apply to Broken and Broken"),
    ],
)
def test_what_has_no_order_or_operator_is_an_error_with_both_types(text: str, words: str) -> None:
    values = {
        "level": Level.HIGH,
        "other": Level.LOW,
        "day": DAY,
        "noon": NOON,
        "noon_utc": NOON_UTC,
        "text": "2026-11-20",
        "price": Decimal("9.50"),
        "took": timedelta(minutes=5),
        "count": 300,
        "pair": (1, 2),
        "data": b"2026-11-20",
        "identity": IDENTITY,
        "broken": Broken.A,
    }
    with pytest.raises(EvaluationError) as caught:
        evaluate(text, **values)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("x == '2026-11-20'", DAY, True),
        ("'2026-11-20' == x", DAY, True),
        ("x != '2026-11-20'", DAY, False),
        ("'2026-01-01' <= x < '2027-01-01'", DAY, True),
        ("x > '2026-11-20'", DAY, False),
        ("x in ('2026-11-19', '2026-11-20')", DAY, True),
        ("x not in ['2026-11-19']", DAY, True),
        ("'2026-11-20' in x", [DAY], True),
        ("'2026-11-20' in x", {DAY}, True),
        ("'2026-11-21' not in x", (DAY,), True),
        ("x == '2026-11-20T12:00'", NOON, True),
        ("x > '2026-11-20'", NOON, True),
        ("x == '2026-11-20T13:00+01:00'", NOON_UTC, True),
        ("x < '08:31'", time(8, 30), True),
        ("x == '1.50'", Decimal("1.5"), True),
        ("x > '1.45'", Decimal("1.5"), True),
        ("x == 1.1", Decimal("1.1"), False),
        ("x == '12345678123456781234567812345678'", IDENTITY, True),
        ("x > 60", timedelta(minutes=5), True),
        ("x == 5 * 60", timedelta(minutes=5), True),
        ("x in [300, 600]", timedelta(minutes=5), True),
        ("sum(x) / 2 > 60", [timedelta(minutes=5)], True),
        ("-x < -1.5", timedelta(minutes=5), True),
        ("x == 'high'", Level.HIGH, True),
        ("x in ['low', 'high']", Level.HIGH, True),
        ("'high' in x", {Level.HIGH}, True),
        ("{'high': 7}[x] == 7", Level.HIGH, True),
        ("x == [1, 2] and x == (1, 2) and x in [[1, 2]]", (1, 2), True),
        ("x != [1, 2]", (1, 3), True),
        ("x == ['a', 'b'] and x <= ['a', 'b', 'c']", {"a", "b"}, True),
        ("x[9] == null", [timedelta(1)], True),
        ("x == null", DAY, False),
        ("x != null", DAY, True),
        ("x == 3", DAY, False),
    ],
)
def test_literals_name_values_that_no_literal_can_be(text: str, value: Any, holds: bool) -> None:
    assert evaluate(text, x=value) is holds


@pytest.mark.parametrize(
    ("text", "value", "words"),
    [
        (
            "x == 'tomorrow'",
            DAY,
            "a date is compared with a literal that is none; one is written '2026-11-20'",
        ),
        ("x < '2026'", DAY, "'2026-11-20'"),
        ("x in ['2026-11-20', 'soon']", DAY, "'2026-11-20'"),
        (
            "x < '2026-11-20T12:00'",
            NOON_UTC,
            "a datetime with a zone is compared with a literal of the other kind",
        ),
        ("x == '2026-11-20T12:00'", NOON_UTC, "'2026-11-20T08:30:00+00:00'"),
        ("x > 'cheap'", Decimal(1), "a Decimal is compared with a literal that is none"),
        ("x > 'NaN'", Decimal(1), "a Decimal is compared with a literal that is none"),
        ("x > 1e300", timedelta(1), "90, its seconds"),
        ("x == '12'", IDENTITY, "a UUID is compared with a literal that is none"),
    ],
)
def test_literal_that_is_no_such_value_is_an_error_that_shows_one(text: str, value: Any, words: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        evaluate(text, x=value)

    assert words in str(caught.value)


def test_enums_are_named_by_their_values_and_ordered_as_their_classes_say() -> None:
    assert evaluate("a == b", a=Level.HIGH, b=Level.HIGH) is True
    assert evaluate("a == b", a=Level.HIGH, b=Level.LOW) is False
    assert evaluate("a == b", a=Paint.RED, b=Level.LOW) is False
    assert evaluate("a == 1 and a != 2 and a", a=Paint.RED)
    assert evaluate("a < b and a < 2 and a + 1 == b", a=Rank.FIRST, b=Rank.SECOND) is True
    assert evaluate("a < b and a < 'b' and len(a) == 1", a=Grade.A, b=Grade.B) is True
    assert evaluate("a < b and a < 'high' and 'high' >= b", a=Severity.LOW, b=Severity.HIGH) is True
    assert evaluate("max(x) == 'high'", x=[Severity.LOW, Severity.HIGH]) is True
    assert evaluate("a & 2 == 2", a=Rights.READ | Rights.WRITE) is True
    assert evaluate("str(a)", a=Level.HIGH) == "high"
    assert evaluate("bool(a) and not b", a=Empty.OFF, b=Rank(1) - 1) is True


def test_members_of_one_value_in_two_enums_are_not_equal() -> None:
    assert evaluate("a == b", a=Paint.RED, b=Broken.A) is False


def test_models_are_dicts_whose_fields_are_values() -> None:
    order = Order(due=DAY, price=Price(Decimal("9.50"), Level.HIGH))

    assert evaluate("order.price.amount < limit", order=order, limit=Decimal(10)) is True
    assert evaluate("order.due < '2026-12-01' and order.price.level == 'high'", order=order) is True
    assert evaluate("order == {'due': day, 'price': order.price}", order=order, day=DAY) is True


def test_tuples_sets_and_bytes_are_what_they_are() -> None:
    assert evaluate("pair == (1, 2) and pair[1] == 2", pair=(1, 2)) is True
    assert evaluate("'a' in tags and tags == {'a', 'b'} and tags & {'a'} == {'a'}", tags={"a", "b"}) is True
    assert evaluate("'a' in tags and tags | {'c'} == {'a', 'c'}", tags=frozenset("a")) is True
    assert evaluate("[len(x) for x in sets] == [1]", sets={frozenset({1})}) is True
    assert evaluate("data == other and len(data) == 2 and data[:1] in data", data=b"ab", other=b"ab") is True
    assert evaluate("[x.amount for x in prices]", prices={Price(Decimal(1), Level.LOW)}) == [Decimal(1)]


def test_dates_and_times_are_calculated_with() -> None:
    assert evaluate("a - b == 24 * 3600", a=date(2026, 11, 21), b=DAY) is True
    assert evaluate("a + took == b", a=NOON, took=timedelta(hours=1), b=NOON.replace(hour=13)) is True
    assert evaluate("a / b", a=timedelta(hours=3), b=timedelta(hours=2)) == 1.5
    with pytest.raises(EvaluationError, match=r"'\+' fails on date and timedelta"):
        evaluate("a + took", a=date.max, took=timedelta(1))


def test_decimals_are_calculated_with_28_digits_whatever_the_process_has_set() -> None:
    with localcontext(prec=3):
        assert evaluate("a / 3", a=Decimal(1)) == Decimal("0.3333333333333333333333333333")


def test_value_of_a_class_that_is_not_registered_is_seen_all_the_same() -> None:
    text = '{"$type":"Gone","amount":{"$type":"Decimal","value":"9.5"},"level":{"$type":"Lost","value":"x"}}'

    assert seen(text) == {"amount": Decimal("9.5"), "level": "x"}
    assert seen('{"$type":"seen.Level","value":"no longer"}') == "no longer"


STATE: dict[str, Any] = {
    "huge": Decimal("1E+999999"),
    "tiny": Decimal("1E-999999"),
    "vast": Decimal("1E+999999999999"),
    "long": Decimal("1." + "3" * 100_000),
    "near": Decimal("1.0000000000000000000000001"),
    "data": b"x" * 1_000,
    "took": timedelta(days=1),
    "ids": [UUID(int=number) for number in range(100)],
    "crowd": [UUID(int=number * (2**61 - 1)) for number in range(1_000)],
    "collected": tuple(range(1_000)),
}


@pytest.mark.parametrize(
    "text",
    [
        *("huge * huge", "huge ** 999999", "2 ** huge", "near ** 10 ** 300", "vast ** vast", "tiny ** -9"),
        *("int(huge)", "int(vast)", "round(vast)", "vast // 1", "vast % 7", "long * 2", "long ** long"),
        *(
            "int(long)",
            "float(long)",
            "round(long)",
            "round(near, 10 ** 9)",
            "near / 0",
            "vast + vast * vast",
        ),
        *("data * 10 ** 9", "data % 1", "[data * 99 for x in range(9999)]", "data * 999 + data * 999"),
        *("int(data)", "took * 10 ** 300", "took * 1e300", "took / 0", "took ** 2", "took // 0.0"),
        *("float('nan') < near", "set(crowd)", "{x: 1 for x in crowd}", "collected * 10 ** 9"),
        *("[x in collected * 99 for x in collected * 99]", "[sorted(ids * 99) for x in range(9999)]"),
    ],
)
def test_bomb_of_such_values_is_stopped_at_once(text: str) -> None:
    values = {name: seen(encode(value)) for name, value in STATE.items()}
    started = clock.thread_time()
    with pytest.raises(EvaluationError):
        parse_expression(text).evaluate(values.__getitem__, lambda name: MISSING)

    assert clock.thread_time() - started < SLOW_MACHINE_SECONDS / 4


def test_huge_exponents_are_compared_and_hashed_without_being_written_out() -> None:
    started = clock.thread_time()
    assert (
        evaluate("a > 10 ** 300 and a > b and a != b and b < 1e-300", a=STATE["vast"], b=STATE["tiny"])
        is True
    )
    assert evaluate("a in {a, b} and len({a, b, 1}) == 3", a=STATE["vast"], b=STATE["tiny"]) is True
    assert evaluate("a > 1.25 and a < 2", a=STATE["long"]) is True

    assert clock.thread_time() - started < SLOW_MACHINE_SECONDS / 4


@pytest.fixture(scope="module")
def many() -> dict[str, Any]:
    """Large states, each value as expressions see it."""
    size = 100_000
    return {
        "names": [f"{number:032x}" for number in range(size)],
        "numbers": list(range(size)),
        "ids": [UUID(int=number) for number in range(size)],
        "others": [UUID(int=number) for number in range(size, 2 * size)],
        "nested": [[UUID(int=number)] for number in range(size)],
        "levels": [seen(encode(Level.HIGH))] * size,
        "prices": [Decimal(number) for number in range(size)],
    }


@pytest.mark.parametrize(
    "text",
    [
        "any(x in ids for x in numbers)",
        "any(x in ids for x in others)",
        "any(x in levels for x in names)",
        "[sorted(ids) for x in names]",
        "[sorted(nested) for x in names]",
        "[max(ids) for x in names]",
        "[ids == others for x in names]",
        "[1 for x in names for y in levels if y == 'lower']",
        "[1 for x in names for y in prices if y == '12.5']",
        "[sum(prices) for x in names]",
    ],
)
def test_no_expression_on_such_values_works_for_seconds(text: str, many: dict[str, Any]) -> None:
    started = clock.process_time()
    with pytest.raises(BudgetExceeded):
        parse_expression(text).evaluate(many.__getitem__, lambda name: MISSING)

    assert clock.process_time() - started < SLOW_MACHINE_SECONDS
