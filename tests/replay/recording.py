"""What a golden run consists of, and how it looks as a file: each input with its time and draw, and what it caused.

A transition is kept as a digest over all that is in it but defaults, so that a field added later changes no digest, and
as its events, so that a difference can be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

from graphflow import events, inputs, run, transition
from graphflow.engine import committer
from graphflow.events import Event
from graphflow.graph.tasks import RunStatus
from graphflow.inputs import Input
from graphflow.run import Failure, NodeStatus
from graphflow.transition import Transition

FOLDER = Path(__file__).parent / "golden"
_CLASSES = {
    name: value
    for module in (run, inputs, transition)
    for name, value in vars(module).items()
    if is_dataclass(value)
}
_ENUMS = {"RunStatus": RunStatus, "NodeStatus": NodeStatus}


@dataclass
class Step:
    """One input that was folded, and what it caused."""

    input: Input
    now: float
    draw: float
    digest: str
    facts: list[str]
    #: Attempts that could start with it.
    room: int = 0


@dataclass
class Recording:
    """A run from its beginning to its end."""

    name: str
    plan_hash: str
    #: How the run ended.
    status: str
    steps: list[Step]

    def save(self) -> None:
        head = {"graph": self.name, "plan_hash": self.plan_hash, "status": self.status}
        lines = [
            json.dumps(
                {
                    "input": as_json(step.input),
                    "now": step.now,
                    "draw": step.draw,
                    "digest": step.digest,
                    "facts": step.facts,
                }
                | ({"room": step.room} if step.room else {})
            )
            for step in self.steps
        ]
        opening = json.dumps(head)[:-1]
        text = f'{opening}, "steps": [\n' + ",\n".join(lines) + "\n]}\n"
        (FOLDER / f"{self.name}.json").write_text(text)

    @classmethod
    def load(cls, name: str) -> Recording:
        found = json.loads((FOLDER / f"{name}.json").read_text())
        steps = [
            Step(
                from_json(step["input"]),
                step["now"],
                step["draw"],
                step["digest"],
                step["facts"],
                step.get("room", 0),
            )
            for step in found["steps"]
        ]
        return cls(found["graph"], found["plan_hash"], found["status"], steps)


@contextmanager
def recorded() -> Iterator[list[Step]]:
    """The steps of the run that is driven meanwhile. What is folded and then parked is no step: it is folded again."""
    steps: list[Step] = []
    latest: list[Step] = []
    fold, apply = committer.advance, committer.apply

    def advance(plan: Any, mirror: Any, outcome: Input, now: float, draw: float, *, room: int) -> Transition:
        # Before the fold: what it returns shares parts of the input, and the store cuts some of them short.
        given = from_json(as_json(outcome))
        transition = fold(plan, mirror, outcome, now, draw, room=room)
        latest[:] = [Step(given, now, draw, digest_of(transition), facts_of(transition), room)]
        return transition

    def applied(mirror: Any, transition: Transition, plan: Any) -> None:
        steps.extend(latest)
        apply(mirror, transition, plan)

    with mock.patch.object(committer, "advance", advance), mock.patch.object(committer, "apply", applied):
        yield steps


def digest_of(transition: Transition) -> str:
    return sha256(json.dumps(as_json(transition), sort_keys=True).encode()).hexdigest()[:12]


def facts_of(transition: Transition) -> list[str]:
    return [_fact(event) for event in transition.events]


def _fact(event: Event) -> str:
    told = {
        name: text
        for name, text in events.event_fields(event).items()
        if name not in ("event", "revision", "at", "ms")
    }
    return " ".join([event.kind, *(f"{name}={text}" for name, text in told.items() if text)])


# Inputs and transitions as JSON


def as_json(value: Any) -> Any:
    """Plain JSON from which `from_json` makes an equal value; of dataclasses, only what is no default."""
    if isinstance(value, Enum):
        return {"enum": f"{type(value).__name__}.{value.name}"}
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, **_told(value)}
    if isinstance(value, tuple):
        return {"tuple": [as_json(each) for each in value]}
    if isinstance(value, list):
        return [as_json(each) for each in value]
    if isinstance(value, set | frozenset):
        return {"set": sorted(as_json(each) for each in value)}
    if isinstance(value, dict):
        return {"dict": [[as_json(key), as_json(each)] for key, each in value.items()]}
    return value


def _told(value: Any) -> dict[str, Any]:
    told = {}
    for each in fields(value):
        found = getattr(value, each.name)
        default = each.default_factory() if callable(each.default_factory) else each.default
        # Where the code lies is no matter of the rules.
        is_place = isinstance(value, Failure) and each.name == "traceback"
        if found != default and not is_place:
            told[each.name] = as_json(found)
    return told


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "class" in value:
        return _CLASSES[value["class"]](
            **{name: from_json(each) for name, each in value.items() if name != "class"}
        )
    if "enum" in value:
        kind, _, name = value["enum"].partition(".")
        return _ENUMS[kind][name]
    if "tuple" in value:
        return tuple(from_json(each) for each in value["tuple"])
    if "set" in value:
        return {from_json(each) for each in value["set"]}
    return {from_json(key): from_json(each) for key, each in value["dict"]}
