"""How does an answer from outside get to a run? Held against what the run waits for, then into its inbox."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from graphflow.codec import register_type
from graphflow.engine.drive import is_inside
from graphflow.errors import InvalidSignal, RunOver
from graphflow.ids import RunId
from graphflow.requests import signal_request
from graphflow.state.names import checked_name
from graphflow.state.schemas import problems_of
from graphflow.store.contract import SignalWait, Store
from graphflow.values import value_text

logger = logging.getLogger(__name__)

#: Names that are told to who may have meant another one.
NAMES_TOLD = 3
#: Names that are looked at for that, those of who has waited longest: a map may wait for thousands.
NAMES_COMPARED = 1_000


@register_type(name="graphflow.SignalSent")
@dataclass(frozen=True, slots=True)
class SignalSent:
    """A signal that was stored for a run. `waits` are those for it at that moment, who has waited longest first; if there
    were none, all that the run waited for."""

    signal: str
    waits: tuple[SignalWait, ...]

    @property
    def is_awaited(self) -> bool:
        """Whether the run waited for it; else it is kept for a wait that comes."""
        return any(wait.signal == self.signal for wait in self.waits)

    @property
    def nearest(self) -> tuple[str, ...]:
        """If it is not awaited: the names that are, the most similar ones first; 3 at most."""
        return () if self.is_awaited else _nearest(self.signal, (wait.signal for wait in self.waits))

    @property
    def warning(self) -> str:
        """What its sender is to know, as a sentence; empty if the run waits for it."""
        if self.is_awaited:
            return ""
        names = ", ".join(self.nearest)
        what = f"the run waits for {names}, not for {self.signal}" if names else "nothing waits for it yet"
        return f"{what}; it is kept for who will wait for it"


async def send_signal(store: Store, run_id: RunId, name: str, value: Any) -> SignalSent:
    """Store a signal for a run. InvalidSignal if it fits none of the waits for its name; InvalidName, UnstorableValue,
    ValueTooLarge, RunOver, RunNotFound."""
    text = value_text(f"signal {checked_name('signal', name)}", value)
    waits = await store.waits(run_id, name)
    _check_fits(run_id, name, text, waits)
    sent = SignalSent(name, tuple(waits or await store.waits(run_id)))
    if not await store.post(run_id, signal_request(name, text, is_own=is_inside(run_id))):
        raise RunOver(run_id)
    if sent.waits and not sent.is_awaited:
        logger.warning("run %s, signal %s: %s", run_id, name, sent.warning)
    return sent


def _check_fits(run_id: RunId, name: str, text: str, waits: list[SignalWait]) -> None:
    """Signals that the run has not taken yet may be for some of these waits: it has to fit one of them."""
    problems = [problems_of(text, schema) for schema in dict.fromkeys(wait.schema for wait in waits)]
    if problems and all(problems):
        raise InvalidSignal(run_id, name, waits[0].place, problems[0])


def _nearest(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """The most similar ones first. Unlike `ids.nearest` this leaves out none that is not similar at all: the run waits for
    nothing else, and one of them is what was meant, or nobody has asked yet."""

    def similarity(other: str) -> float:
        return SequenceMatcher(None, name.casefold(), other.casefold()).ratio()

    compared = islice(dict.fromkeys(names), NAMES_COMPARED)
    return tuple(sorted(compared, key=similarity, reverse=True)[:NAMES_TOLD])
