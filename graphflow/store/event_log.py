"""What does a run's event stream hold after an entry, and has something been cut off before that?"""

from __future__ import annotations

from graphflow.errors import UNREADABLE, CorruptState
from graphflow.events import Event, EventsTrimmed, RunFinished, RunStarted, SignalArrived, event_from_fields
from graphflow.store.patient_client import PatientClient

#: What may stand before a run's RunStarted: requests that came before the run had begun.
_BEFORE_START = (SignalArrived, RunFinished)
BEGINNING = "0"


async def read_events(redis: PatientClient, key: str, after: str, block_ms: int) -> list[tuple[str, Event]]:
    """A page of (entry id, event) after the entry `after`, waiting up to `block_ms` for the first.

    An EventsTrimmed stands before the others, under the id `after`, if the stream has been cut beyond that entry: it is
    cut from its old end, so nothing is missing after an entry that is still there. CorruptState.
    """
    entries = await redis.entries(key, after)
    if block_ms and (not entries or entries[-1][0] == after):
        await redis.wait_for_entries(key, after, block_ms)
        entries = await redis.entries(key, after)
    try:
        found = [(entry, event_from_fields(fields)) for entry, fields in entries]
    except UNREADABLE as error:
        raise CorruptState(key, f"an entry is no event: {error!r}") from error
    if found and found[0][0] == after:
        return found[1:]
    if _is_cut(found, after):
        first = found[0][1]
        found.insert(0, (after, EventsTrimmed(revision=first.revision, at=first.at)))
    return found


def _is_cut(found: list[tuple[str, Event]], after: str) -> bool:
    if not found or after != BEGINNING:
        return bool(found)
    first = next((event for _, event in found if not isinstance(event, _BEFORE_START)), None)
    return first is not None and not isinstance(first, RunStarted)
