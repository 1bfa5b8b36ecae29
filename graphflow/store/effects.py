"""How is what module runs leave besides state stored: steps, waits for signals, signals that came early, messages?

A field of `steps` and of `waits` begins with the place: `NODE:VISIT:MODULE:ITEM`, `-` for no item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from graphflow.errors import UNREADABLE, CorruptState
from graphflow.ids import item_number, module_number
from graphflow.planning.plan import Plan
from graphflow.run import NodeStatus, Place, Run, Wait
from graphflow.store.contract import SignalWait, signal_waits
from graphflow.store.fields import Changes, read_json
from graphflow.store.keys import RunKeys
from graphflow.transition import Transition

if TYPE_CHECKING:
    from graphflow.store.patient_client import PatientClient
    from graphflow.store.write_list import WriteList


class EffectWrites:
    """What a commit writes of them; see `writes.WriteBatch`."""

    def __init__(self, plan: Plan) -> None:
        self.operations = 0
        self.size = 0
        self._plan = plan
        self._steps: Changes = {}
        self._waits: Changes = {}
        self._signals: Changes = {}
        self._sent: dict[str, list[str]] = {}
        self._taken: list[tuple[str, str]] = []

    def add(self, run: Run, transition: Transition) -> list[str]:
        """Take over a transition before it is applied; the names of mailboxes that it is the first to use."""
        for place, fields in transition.steps.items():
            start = self._start_of(place)
            if fields is None:
                self._steps |= {f"{start}:{field}": None for field in run.steps.get(place, ())}
            else:
                self._steps |= {f"{start}:{field}": text for field, text in fields.items()}
                self.size += sum(len(text) for text in fields.values() if text is not None)
        for place, wait in transition.waits.items():
            self._waits[self._start_of(place)] = None if wait is None else _wait_text(wait)
        for name, texts in transition.signals.items():
            self._signals[name] = f"[{','.join(texts)}]" if texts else None
            self.size += sum(map(len, texts))
        for message in transition.sent:
            self._sent.setdefault(message.mailbox, []).append(message.text)
            self.size += len(message.text)
        self._taken += transition.taken
        self.operations += len(transition.steps) + len(transition.waits) + len(transition.signals)
        self.operations += len(transition.sent) + len(transition.taken)
        return [name for name in self._sent if name not in run.mailboxes]

    def put(self, writes: WriteList, keys: RunKeys) -> None:
        if not self.operations:
            return
        writes.set_fields(keys.steps, self._steps)
        writes.set_fields(keys.waits, self._waits)
        writes.set_fields(keys.signals, self._signals)
        for mailbox, texts in self._sent.items():
            writes.put_all("RPUSH", keys.mailbox(mailbox), texts)
        for mailbox, text in self._taken:
            writes.put("LREM", keys.mailbox(mailbox), [text])

    def _start_of(self, place: Place) -> str:
        return place.text(self._plan.nodes[place.node].name)


def mailboxes_text(names: list[str]) -> str:
    """The run's field `mailboxes`."""
    return to_json(names).decode()


def mailboxes_of(key: str, fields: Mapping[str, str]) -> list[str]:
    """The mailboxes that a run or a snapshot has used, from the fields of its hash under `key`. CorruptState."""
    if "mailboxes" not in fields:
        return []
    try:
        names = from_json(fields["mailboxes"])
    except ValueError as error:
        raise CorruptState(key, f"mailboxes is not JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CorruptState(key, "mailboxes is no list of names")
    return names


async def load_effects(
    redis: PatientClient, keys: RunKeys, plan: Plan, run: Run, fields: Mapping[str, str]
) -> None:
    """Complete the mirror. What is left of earlier visits, and what visits that are over waited for, is left out."""
    steps, waits, signals = await redis.hashes([keys.steps, keys.waits, keys.signals])
    try:
        for text, value in steps.items():
            place, field = _place_and_rest(text, plan)
            if place is not None and run.nodes[place.node].visits == place.visit:
                run.steps.setdefault(place, {})[field] = value
        for text, value in waits.items():
            place, _ = _place_and_rest(text, plan)
            if place is not None and _is_under_way(run, place):
                run.waits[place] = _wait_from_text(value)
        for name, value in signals.items():
            run.signals[name] = tuple(to_json(each).decode() for each in read_json(value))
    except UNREADABLE as error:
        raise CorruptState(keys.waits, f"it, steps or signals cannot be read: {error}") from error
    for name in mailboxes_of(keys.run, fields):
        run.mailboxes[name] = await _elements(redis, keys.mailbox(name))


async def read_waits(redis: PatientClient, keys: RunKeys, signal: str | None = None) -> list[SignalWait]:
    """What a run waits for, or who waits for this signal; what is left of visits that are over is left out."""
    waits, nodes = await redis.hashes([keys.waits, keys.nodes])
    # Each of thousands of items may wait for a signal of its own: only what may be meant is read.
    needle = "" if signal is None else to_json(signal).decode()
    try:
        found = [
            (place.split(":", 4), _wait_from_text(text)) for place, text in waits.items() if needle in text
        ]
        return signal_waits(
            (name, None if item == "-" else int(item), wait)
            for (name, _, _, item), wait in found
            if name in nodes and NodeStatus(nodes[name]).is_active and signal in (None, wait.signal)
        )
    except UNREADABLE as error:
        raise CorruptState(keys.waits, f"it cannot be read: {error}") from error


async def _elements(redis: PatientClient, key: str) -> list[str]:
    texts: list[str] = await redis.command(lambda client: client.lrange(key, 0, -1), key)
    return texts


def _place_and_rest(text: str, plan: Plan) -> tuple[Place | None, str]:
    """The place is None if the graph has no such node any more."""
    name, visit, module, item, *rest = text.split(":", 4)
    if name not in plan.by_name:
        return None, ""
    place = Place(
        plan.by_name[name], int(visit), module_number(module), None if item == "-" else item_number(item)
    )
    return place, rest[0] if rest else ""


def _is_under_way(run: Run, place: Place) -> bool:
    return bool(run.active >> place.node & 1) and run.nodes[place.node].visits == place.visit


def _wait_text(wait: Wait) -> str:
    fields: dict[str, Any] = {"signal": wait.signal, "since": wait.since, "field": wait.field}
    if wait.question:
        fields["question"] = wait.question
    if wait.schema:
        fields["schema"] = from_json(wait.schema)
    if wait.deadline:
        fields["deadline"] = round(wait.deadline)
    if wait.refused:
        fields["refused"] = wait.refused
    return to_json(fields).decode()


def _wait_from_text(text: str) -> Wait:
    fields = read_json(text)
    return Wait(
        fields["signal"],
        fields["field"],
        fields["since"],
        fields.get("question", ""),
        to_json(fields["schema"]).decode() if "schema" in fields else "",
        fields.get("deadline", 0),
        fields.get("refused", ""),
    )
