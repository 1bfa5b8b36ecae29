"""Which numbers may a setting be? One table for all that users give, in an agent, a node, a module, a call or a command.

A whole number is whatever Python takes as an index, a number of seconds whatever it takes as a real number; a bool, a
text and a timedelta are none.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

from graphflow.errors import InvalidSetting
from graphflow.settings import DEFAULT_STALL_SECONDS

#: Characters of a value that an error shows.
SHOWN_CHARACTERS = 100
#: Counts are below it: Redis and JSON readers know no larger whole numbers.
COUNT_LIMIT = 2**63
#: A hundred years: Redis knows no end of a key that is much further away.
LONGEST_KEPT_SECONDS = 100 * 365 * 24 * 3600

_LARGEST = math.nextafter(math.inf, 0)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What `read` makes of a value lies in them, or it is refused. `words` tell people what is accepted."""

    words: str
    #: The number that a value stands for; None if it is none of this kind.
    read: Callable[[object], float | None]
    least: float
    most: float
    excludes_least: bool = False
    or_none: bool = False

    def hold(self, value: float) -> bool:
        # NaN is in no bounds: it compares as false.
        return self.least <= value <= self.most and not (self.excludes_least and value == self.least)


def whole_number(value: object) -> int | None:
    """None for what is no whole number, 2.0 among it."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def real_number(value: object) -> float | None:
    """As a float, infinite if it is beyond all floats; None for what is no number."""
    # Decimal is registered as a Number only, and takes a millisecond to import.
    if isinstance(value, bool | complex) or not isinstance(value, Number):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    except ValueError:
        return math.nan  # a signalling Decimal


def number_or_share(value: object) -> float | None:
    """A whole number, or a float below 1."""
    whole = whole_number(value)
    if whole is not None:
        return whole
    share = real_number(value)
    return None if share is None or share >= 1 else share


def as_read(read: Callable[[object], float | None]) -> Callable[[object], object]:
    """For fields: a value as what it is read as, or as it is if that is nothing."""

    def value_of(value: object) -> object:
        found = read(value)
        return value if found is None else found

    return value_of


def _count(words: str = "a whole number of at least 1", least: int = 1, *, or_none: bool = False) -> Bounds:
    return Bounds(words, whole_number, least, COUNT_LIMIT - 1, or_none=or_none)


def _duration(*, or_none: bool = False) -> Bounds:
    words = "a finite number of seconds above 0"
    return Bounds(words, real_number, 0, _LARGEST, excludes_least=True, or_none=or_none)


def _kept() -> Bounds:
    words = f"a finite number of seconds from 0 (kept for ever) to {LONGEST_KEPT_SECONDS:,}"
    return Bounds(words, real_number, 0, LONGEST_KEPT_SECONDS)


#: By their names, as an agent's arguments and attributes.
AGENT_BOUNDS: Mapping[str, Bounds] = {
    "max_concurrent_tasks": _count(or_none=True),
    "max_total_iterations": _count(or_none=True),
    "deadline": _duration(or_none=True),
    "lease_seconds": Bounds("a finite number of seconds from 0.05 to 3,600", real_number, 0.05, 3600),
    "stall_seconds": _duration(or_none=True),
    "keep_complete_seconds": _kept(),
    "keep_other_seconds": _kept(),
}

#: Fields of NodeConfig.
NODE_BOUNDS: Mapping[str, Bounds] = {
    "max_retries": _count(),
    "max_visits": _count("a whole number of at least 0 (no limit)", 0),
    "max_concurrency": _count(or_none=True),
    "max_crashes": _count(),
    "batch_size": _count(or_none=True),
    "min_success": Bounds(
        "a whole number of at least 0, or a share of all below 1",
        number_or_share,
        0,
        COUNT_LIMIT - 1,
        or_none=True,
    ),
}

#: Fields of ModuleConfig.
MODULE_BOUNDS: Mapping[str, Bounds] = {"timeout": _duration()}

#: Arguments of an agent's methods and of commands, and of the cache's `get_message` and `set`.
CALL_BOUNDS: Mapping[str, Bounds] = {
    "grace_seconds": _duration(),
    "--grace": _duration(),
    "limit": _count(or_none=True),
    "since": Bounds("a finite number of seconds since 1970", real_number, 0, _LARGEST, or_none=True),
    "at": _count(or_none=True),
    "--at": _count(or_none=True),
    "--count": _count(),
    "timeout": _duration(or_none=True),
    "ttl": _duration(or_none=True),
}


def checked(bounds: Mapping[str, Bounds], setting: str, value: object) -> Any:
    """The number, as an int or a float, or None where that is accepted. InvalidSetting."""
    wanted = bounds[setting]
    if value is None and wanted.or_none:
        return None
    found = wanted.read(value)
    if found is None or not wanted.hold(found):
        raise InvalidSetting(setting, _shown(value, is_number=found is not None), _words(wanted, found))
    return found


def checked_stall_seconds(value: object, lease_seconds: float) -> float:
    """Those of an agent with such leases; None stands for the default. InvalidSetting."""
    found = checked(AGENT_BOUNDS, "stall_seconds", value)
    if found is None:
        return max(DEFAULT_STALL_SECONDS, lease_seconds)
    if found < lease_seconds:
        words = f"give a finite number of seconds of at least lease_seconds, which is {lease_seconds:g}"
        raise InvalidSetting("stall_seconds", _shown(value, is_number=True), words)
    return float(found)


def checked_choice(setting: str, value: object, choices: Sequence[str]) -> Any:
    """The value if it is one of these texts. InvalidSetting."""
    if isinstance(value, str) and value in choices:
        return value
    words = f"give {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
    raise InvalidSetting(setting, _shown(value, is_number=isinstance(value, str)), words)


def problems(bounds: Mapping[str, Bounds], values: Mapping[str, object]) -> Iterator[str]:
    """A phrase for each of these settings that is out of bounds."""
    for setting, value in values.items():
        try:
            checked(bounds, setting, value)
        except InvalidSetting as error:
            yield str(error)


def _words(bounds: Bounds, found: float | None) -> str:
    is_too_large = found is not None and found >= COUNT_LIMIT and bounds.read is not real_number
    return f"give {bounds.words}{' and below 2**63' if is_too_large else ''}{', or None' if bounds.or_none else ''}"


def _shown(value: object, *, is_number: bool) -> str:
    """For people: with its type, if that is what is wrong."""
    kind = type(value).__name__
    try:
        text = repr(value)
    except Exception:  # an int of thousands of digits has no text; anything else may have none either
        return f"of type {kind}"
    if len(text) > SHOWN_CHARACTERS:
        text = text[: SHOWN_CHARACTERS - 1] + "…"
    return text if is_number or value is None else f"{text} ({kind})"
