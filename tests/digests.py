"""Values whose digests are kept: they are the same for ever, whichever versions of pydantic and Python make them.

    python -m tests.digests          prints the digests of today
    python -m tests.digests --keep   adds those of values that have none yet to `kept_digests.json`

What stands in that file is never written anew: steps that were paid for are found by it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntFlag, StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel
from pydantic.dataclasses import dataclass as pydantic_dataclass

from graphflow.codec import decode, encode, register_type
from graphflow.codec.canonical import digest

KEPT = Path(__file__).parent / "kept_digests.json"

T = TypeVar("T")


class Mood(StrEnum):
    GOOD = "good"


class Right(IntFlag):
    READ = 1
    WRITE = 2


class Pair(Enum):
    BOTH = (1, 2.5e300)


class Part(BaseModel):
    size: float = 1e16
    mood: Mood = Mood.GOOD


class Whole(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    parts: list[Part]
    price: Decimal = Field(alias="thePrice")
    hidden: Any = Field(default=None, exclude=True)
    _seen: int = PrivateAttr(default=3)


class Box(BaseModel, Generic[T]):
    content: T


class Names(RootModel[list[str]]):
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float = dataclasses.field(init=False)


@pydantic_dataclass
class Sized:
    width: int = Field(alias="w")


for _cls in (Mood, Right, Pair, Part, Whole, Box[int], Names, Point, Sized):
    register_type(_cls, name=f"kept_digests.{_cls.__name__}")

BERLIN = ZoneInfo("Europe/Berlin")

VALUES: dict[str, Any] = {
    "none": None,
    "bools": [True, False],
    "integers": [0, -1, 2**53 + 1, 2**70, 10**3999],
    "floats": [
        0.1,
        -0.0,
        1.0,
        1e15,
        1e16,
        1e-5,
        1e-7,
        5e-324,
        1.7976931348623157e308,
        1e22,
        123456789012345680.0,
    ],
    "texts": ["", "é", "\u2028", "\x00\x1f\x7f", '"\\/', "😀", "$type"],
    "dict": {"b": 1, "a": {"d": [1e16], "c": None}, "é": 0, "Z": 1},
    "dict with a tag": {"$type": "mine", "$unset": [1], "value": 2},
    "tuple": (1, (2.5, "x"), ()),
    "sets": [{1e16, 2.0, "b", "a", "é", "z"}, frozenset({(1, 2), None, True}), set()],
    "bytes": b"\x00\xff",
    "counter": Counter("aab"),
    "ordered": OrderedDict(b=1, a=2),
    "ordered otherwise": OrderedDict(a=2, b=1),
    "defaultdict": defaultdict(list, a=[1]),
    "decimal": [Decimal("1.50"), Decimal("-0"), Decimal("12345678901234567890.12"), Decimal("1E+30")],
    "uuid": UUID(int=1),
    "times": [
        datetime(2026, 11, 20, 8, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
        datetime(2026, 1, 1, 0, 0, 0, 1),
        date(2026, 1, 1),
        time(8, 30, tzinfo=BERLIN),
        time(8, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
    ],
    "spans": [timedelta(hours=1, microseconds=1), timedelta.max, timedelta.min],
    "enums": [Mood.GOOD, Right.READ | Right.WRITE, Pair.BOTH],
    "models": [
        Whole(parts=[Part(), Part(size=1)], thePrice=Decimal("0.10"), more={"b": 1, "a": 2}),  # type: ignore[call-arg]
        Box[int](content=1),
        Names(["a"]),
        Part.model_construct(size="wide"),
    ],
    "dataclasses": [Point(1e16), Sized(w=3)],  # type: ignore[call-arg]
}


def digests() -> dict[str, str]:
    """By the names of the values; that of what comes back from a store is the same."""
    found = {}
    for name, value in VALUES.items():
        found[name] = digest(value)
        back = digest(decode(encode(value)))
        if back != found[name]:
            raise AssertionError(f"{name}: {found[name]} before it was stored, {back} after")
    return found


def main(words: list[str]) -> None:
    if "--keep" in words:
        kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        KEPT.write_text(json.dumps({**digests(), **kept}, indent=1) + "\n")
        return
    print(json.dumps(digests(), indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
