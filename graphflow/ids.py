"""What are things called? Names safe inside Redis keys, run ids that people can read out and type, numbers.

A run id looks like `numbers-7k3f-q2xm`: what the run is about, its start, chance. Nothing here looks at a clock or
draws by itself: time and the random source are arguments.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import NewType, Protocol, TypeVar, cast

from graphflow.errors import InvalidName

T = TypeVar("T")
N_co = TypeVar("N_co", covariant=True)

RunId = NewType("RunId", str)

#: Which node of the plan, which module of its node, which item of its map: each counts from 0.
NodeNumber = NewType("NodeNumber", int)
ModuleNumber = NewType("ModuleNumber", int)
ItemNumber = NewType("ItemNumber", int)

#: Of a map node the only one.
FIRST_MODULE = ModuleNumber(0)


class _Enumerate(Protocol[N_co]):
    def __call__(self, elements: Iterable[T], start: int = 0, /) -> Iterator[tuple[N_co, T]]: ...


# `enumerate`, `range` and `int`, whose numbers are of one kind without a call for each, which costs 50 ns.
enumerate_nodes = cast("_Enumerate[NodeNumber]", enumerate)
enumerate_modules = cast("_Enumerate[ModuleNumber]", enumerate)
enumerate_items = cast("_Enumerate[ItemNumber]", enumerate)
item_range = cast("Callable[..., Sequence[ItemNumber]]", range)
module_number = cast("Callable[[str], ModuleNumber]", int)
item_number = cast("Callable[[str], ItemNumber]", int)

#: What run ids and node names consist of. No braces: they mark the hash tag in Redis keys.
NAME_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,100}")

#: How many names a message lists when none is similar.
NAMES_SHOWN = 5

#: Base 32 without the look-alikes i, l, o and u (Crockford's set, in lower case).
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

#: Characters of the stem kept in a new run id.
MAX_STEM_LENGTH = 40

#: The time digits count minutes, so ids of one stem sort by start for two years (32**4 minutes).
MS_PER_TIME_UNIT = 60_000


def new_run_id(stem: str, now_ms: int, rng: random.Random) -> RunId:
    """Return `STEM-TIME-CHANCE` with four base 32 digits each of time (`now_ms`, since the epoch) and of chance.

    Ids can repeat (one in a million within a minute): whoever creates the run refuses an id that exists and draws
    again.
    """
    time_digits = _base32(now_ms // MS_PER_TIME_UNIT)
    return RunId(f"{_safe_stem(stem)}-{time_digits}-{_base32(rng.getrandbits(20))}")


def check_run_id(text: str) -> RunId:
    """Return `text` as a run id, or raise `InvalidName`."""
    return RunId(_checked("run id", text))


def _checked(what: str, text: str) -> str:
    if not isinstance(text, str):
        raise InvalidName(what, str(text), f"it is of type {type(text).__name__}; give it as text")
    if not NAME_PATTERN.fullmatch(text):
        raise InvalidName(what, str(text), "use 1 to 100 letters, digits, '_', '.' or '-'")
    return text


def _safe_stem(stem: str) -> str:
    ascii_stem = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9_.]+", "-", ascii_stem)
    return words.strip("-._")[:MAX_STEM_LENGTH].rstrip("-._") or "run"


def _base32(number: int) -> str:
    """The last four base 32 digits (20 bits) of `number`."""
    return "".join(ALPHABET[(number >> shift) & 31] for shift in (15, 10, 5, 0))


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what it may have meant."""
    known = sorted(known)
    if close := get_close_matches(name, known, n=2):
        return f"; did you mean {' or '.join(map(repr, close))}?"
    if not known:
        return ""
    more = ", ..." if len(known) > NAMES_SHOWN else ""
    return f"; there are {', '.join(map(repr, known[:NAMES_SHOWN]))}{more}"
