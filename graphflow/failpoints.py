"""Where may a test make this process die, wait or fail? At named places in the production code, chosen from outside.

    GRAPHFLOW_FAILPOINTS="commit.after_reply@2=kill;commit.before=sleep:0.5"

Each entry is `NAME[@N]=ACTION`: the action happens the N-th time that the place is passed (from 1; the first time
without `@N`; each time with `@*`). Actions:

    kill            SIGKILL to this process
    stop            SIGSTOP to this process; SIGCONT lets it go on
    sleep:SECONDS   block the calling thread, and the event loop if it is the loop's
    hang            block the calling thread for ever
    raise           raise FailpointHit

The environment is read when this module is imported; a malformed one is a ValueError there. A place that nobody chose
costs one dict lookup.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

ENVIRONMENT_VARIABLE = "GRAPHFLOW_FAILPOINTS"


class FailpointHit(Exception):
    """The failpoint `name` was told to raise."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"failpoint {name!r} was told to raise")


def failpoint(name: str) -> None:
    """Mark a place where a fault can be injected. Does nothing unless `name` was configured."""
    place = _places.get(name)
    if place is not None:
        place.passed()


def configure(text: str) -> None:
    """Replace all configured failpoints by those in `text` and count from 1 again. Raises ValueError."""
    places: dict[str, _Place] = {}
    for entry in filter(None, map(str.strip, text.split(";"))):
        name, turn, action = _parsed(entry)
        places.setdefault(name, _Place()).actions.append((turn, action))
    _places.clear()
    _places.update(places)


def reset() -> None:
    """Switch every failpoint off."""
    _places.clear()


@contextmanager
def watched(passed: Callable[[str], None]) -> Iterator[None]:
    """Call `passed` with the name of each place that is passed while the block lasts, before anything happens there."""
    global _places
    before = _places
    _places = _Watched(before, passed)
    try:
        yield
    finally:
        before.clear()
        before.update(_places)
        _places = before


@contextmanager
def told_of_crash(break_off: Callable[[BaseException], None]) -> Iterator[None]:
    """While the block lasts, `break_off` is called when this process is to be taken for dead, from any thread."""
    _told_of_crash.add(break_off)
    try:
        yield
    finally:
        _told_of_crash.discard(break_off)


def crash(error: BaseException) -> None:
    """Take this process for dead: whoever drives a run breaks off with the error."""
    for break_off in list(_told_of_crash):
        break_off(error)


@dataclass(slots=True)
class _Place:
    """A configured failpoint. `actions` holds (turn, action); turn None is each time."""

    actions: list[tuple[int | None, Callable[[], None]]] = field(default_factory=list)
    #: A counter whose step is atomic: threads pass failpoints too.
    turns: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def passed(self) -> None:
        now = next(self.turns)
        for turn, action in self.actions:
            if turn is None or turn == now:
                action()


def _parsed(entry: str) -> tuple[str, int | None, Callable[[], None]]:
    place, equals, action = entry.partition("=")
    name, at, turn = place.strip().partition("@")
    if not name or not equals:
        raise _malformed(entry, "write NAME=ACTION or NAME@N=ACTION")
    return name, _parsed_turn(entry, turn if at else "1"), _parsed_action(entry, name, action.strip())


def _parsed_turn(entry: str, turn: str) -> int | None:
    if turn == "*":
        return None
    if not (turn.isascii() and turn.isdigit() and int(turn) > 0):
        raise _malformed(entry, "after @ comes a number from 1, or *")
    return int(turn)


def _parsed_action(entry: str, name: str, action: str) -> Callable[[], None]:
    verb, _, argument = action.partition(":")
    if verb == "sleep":
        return _sleeper(entry, argument)
    if argument or verb not in _ACTIONS:
        raise _malformed(entry, f"the actions are {', '.join(_ACTIONS)} and sleep:SECONDS")
    return lambda: _ACTIONS[verb](name)


def _sleeper(entry: str, argument: str) -> Callable[[], None]:
    try:
        seconds = float(argument)
    except ValueError:
        raise _malformed(entry, "sleep needs seconds, as in sleep:0.5") from None
    if not 0 <= seconds < float("inf"):
        raise _malformed(entry, "sleep needs a finite number of seconds from 0; hang waits for ever")
    return lambda: time.sleep(seconds)


def _malformed(entry: str, advice: str) -> ValueError:
    return ValueError(f"malformed failpoint {entry!r} ({ENVIRONMENT_VARIABLE}): {advice}")


def _kill(_name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(_name: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _hang(_name: str) -> None:
    while True:
        time.sleep(3600)


def _raise(name: str) -> None:
    raise FailpointHit(name)


_ACTIONS: dict[str, Callable[[str], None]] = {"kill": _kill, "stop": _stop, "hang": _hang, "raise": _raise}

_told_of_crash: set[Callable[[BaseException], None]] = set()


class _Watched(dict[str, _Place]):
    def __init__(self, places: dict[str, _Place], passed: Callable[[str], None]) -> None:
        super().__init__(places)
        self._passed = passed

    def get(self, name: str, default: Any = None) -> Any:
        self._passed(name)
        return super().get(name, default)


_places: dict[str, _Place] = {}

configure(os.environ.get(ENVIRONMENT_VARIABLE, ""))
