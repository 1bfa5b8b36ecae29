"""What are the runs of a store like, seen from outside? For whoever puts a store in order or says how it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphflow.errors import UNREADABLE
from graphflow.graph.tasks import RunStatus
from graphflow.ids import RunId
from graphflow.server.owner import is_gone
from graphflow.settings import KEEP_COMPLETE_SECONDS, KEEP_OTHER_SECONDS
from graphflow.store.fields import time_from_text
from graphflow.store.keys import StoreKeys
from graphflow.store.pages import ask_each, pages_of_runs
from graphflow.store.patient_client import PatientClient

#: What PTTL answers for a key without an end.
NO_END = -1

_RUN_FIELDS = ("status", "created", "keep_complete", "keep_other", "quarantined")
_LEASE_FIELDS = ("owner", "deadline", "length")


@dataclass(frozen=True, slots=True)
class Look:
    """A run at one look. Its hash may be gone; if it cannot be read, it is as good as in quarantine."""

    run_id: RunId
    exists: bool
    status: RunStatus | None = None
    #: Ms since 1970.
    created: float = 0.0
    #: Seconds for which it is to be kept after its end; 0 is for ever.
    keep_seconds: float = 0.0
    #: Why the run cannot be read.
    quarantined: str = ""

    @property
    def is_final(self) -> bool:
        return self.status is not None and self.status.is_final

    @property
    def is_open(self) -> bool:
        return self.status is not None and not self.status.is_final


@dataclass(slots=True)
class Survey:
    """Run ids, but for the count."""

    runs: int = 0
    #: Not over.
    open: list[str] = field(default_factory=list)
    #: Of these, those whose lease has ended or whose holder is gone.
    stale_leases: list[str] = field(default_factory=list)
    #: Why they cannot be read, by id.
    quarantined: dict[str, str] = field(default_factory=dict)
    #: Over, and neither kept for ever nor given an end.
    without_end: list[str] = field(default_factory=list)
    #: Not in an index that they belong to.
    unindexed: list[str] = field(default_factory=list)


async def look_at(redis: PatientClient, keys: StoreKeys, run_ids: Sequence[RunId]) -> list[Look]:
    hashes = [keys.run(run_id).run for run_id in run_ids]
    found = await ask_each(redis, lambda pipe, key: pipe.hmget(key, _RUN_FIELDS), hashes)
    return [_look(run_id, values) for run_id, values in zip(run_ids, found, strict=True)]


def _look(run_id: RunId, values: list[str | None] | None) -> Look:
    if values is None:
        return Look(run_id, True, quarantined="its hash is of another type")
    text, created, keep_complete, keep_other, quarantined = values
    if text is None:
        # Every run has a status from its creation on.
        return Look(run_id, False)
    try:
        status = RunStatus(text)
        kept, default = keep_other, KEEP_OTHER_SECONDS
        if status is RunStatus.COMPLETE:
            kept, default = keep_complete, KEEP_COMPLETE_SECONDS
        keep_seconds = default if kept is None else float(kept)
        return Look(run_id, True, status, time_from_text(created), keep_seconds, quarantined or "")
    except UNREADABLE as error:
        return Look(run_id, True, quarantined=quarantined or str(error))


async def survey(redis: PatientClient, keys: StoreKeys) -> Survey:
    """Look at every run that has its hash."""
    found = Survey()
    async for run_ids in pages_of_runs(redis, keys):
        looks = await look_at(redis, keys, run_ids)
        open_runs = [look.run_id for look in looks if look.is_open]
        found.runs += len(looks)
        found.open += open_runs
        found.stale_leases += await _with_stale_lease(redis, keys, open_runs)
        found.quarantined |= {look.run_id: look.quarantined for look in looks if look.quarantined}
        found.without_end += await _without_end(redis, keys, looks)
        found.unindexed += await _unindexed(redis, keys, looks)
    return found


async def server_time(redis: PatientClient) -> float:
    """The server's clock, in ms since 1970."""
    seconds, microseconds = await redis.command(lambda client: client.time(), "TIME")
    return float(int(seconds) * 1000 + int(microseconds) / 1000)


async def _with_stale_lease(redis: PatientClient, keys: StoreKeys, run_ids: Sequence[RunId]) -> list[RunId]:
    leases = [keys.run(run_id).lease for run_id in run_ids]
    found = await ask_each(redis, lambda pipe, key: pipe.hmget(key, _LEASE_FIELDS), leases)
    now = await server_time(redis)
    return [
        run_id
        for run_id, values in zip(run_ids, found, strict=True)
        if values is not None and values[0] is not None and _is_stale(*values, now=now)
    ]


def _is_stale(owner: str, deadline: str, length: str, *, now: float) -> bool:
    try:
        # As in acquire.lua: a deadline more than two lengths away was set before the clock jumped back.
        return not now < float(deadline) <= now + 2 * float(length) or is_gone(owner)
    except UNREADABLE:
        return True


async def _without_end(redis: PatientClient, keys: StoreKeys, looks: Sequence[Look]) -> list[RunId]:
    over = [look.run_id for look in looks if look.is_final and look.keep_seconds]
    hashes = [keys.run(run_id).run for run_id in over]
    ends = await ask_each(redis, lambda pipe, key: pipe.pttl(key), hashes)
    return [run_id for run_id, end in zip(over, ends, strict=True) if end == NO_END]


async def _unindexed(redis: PatientClient, keys: StoreKeys, looks: Sequence[Look]) -> list[str]:
    runs = [look.run_id for look in looks if look.status is not None]
    open_runs = [look.run_id for look in looks if look.is_open and not look.quarantined]
    missing = {
        run_id
        for index, belonging in ((keys.runs, runs), (keys.open_runs, open_runs))
        for run_id, score in zip(belonging, await _scores(redis, index, belonging), strict=True)
        if score is None
    }
    return sorted(missing)


async def _scores(redis: PatientClient, index: str, run_ids: Sequence[RunId]) -> list[float | None]:
    if not run_ids:
        return []
    scores: list[float | None] = await redis.command(
        lambda client: client.zmscore(index, list(run_ids)), index
    )
    return scores
