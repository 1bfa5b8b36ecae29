"""What do crashes and time leave undone in a store? Walks over all its runs and puts them in order.

The indexes `gf:runs` and `gf:runs:open` are hints; the runs themselves decide. Nothing here needs a run to stand still:
what is changed is decided anew by the script that changes it, or cannot become wrong meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from graphflow.clock import now
from graphflow.ids import RunId
from graphflow.store.keys import StoreKeys
from graphflow.store.pages import ask_each, pages_of_index, pages_of_keys, pages_of_runs
from graphflow.store.patient_client import PatientClient
from graphflow.store.retention import expire_keys
from graphflow.store.survey import NO_END, Look, look_at

#: Seconds for which an index entry without a run may be that of a run about to be created: longer than the patience
#: with which a store is asked.
GRACE_SECONDS = 60.0


@dataclass(slots=True)
class Swept:
    """What a sweep has put in order, or would. Run ids."""

    #: Over, with keys that had no end.
    expired: set[str] = field(default_factory=set)
    #: Gone but for some keys, which were removed.
    remains: set[str] = field(default_factory=set)
    #: Gone, but in `gf:runs`.
    forgotten: set[str] = field(default_factory=set)
    #: Gone or over, but in `gf:runs:open`.
    closed: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Of one store. Every method raises StoreErrors.

    An index entry without a run is left alone for `grace_seconds`: ids are put into the indexes before their runs are
    created.
    """

    redis: PatientClient
    keys: StoreKeys
    grace_seconds: float = GRACE_SECONDS

    async def sweep(self, *, dry_run: bool = False) -> Swept:
        """Finish what was left undone: the expiry and the removal of runs, and of their index entries."""
        swept = Swept()
        await self._sweep_keys(swept, dry_run)
        swept.forgotten = await self._orphans(self.keys.runs)
        swept.closed = await self._orphans(self.keys.open_runs)
        if not dry_run:
            await self._remove(self.keys.runs, swept.forgotten)
            await self._remove(self.keys.open_runs, swept.closed)
        return swept

    async def orphans(self) -> list[str]:
        """Ids in an index that they do not belong to."""
        return sorted({*await self._orphans(self.keys.runs), *await self._orphans(self.keys.open_runs)})

    async def rebuild_indexes(self) -> int:
        """Make the indexes say what the runs say; the number of entries that were added or removed.

        Runs in quarantine are put back as well: whoever asks for this has looked after them.
        """
        changed = 0
        async for page in pages_of_runs(self.redis, self.keys):
            looks = await look_at(self.redis, self.keys, page)
            changed += await self._add(self.keys.runs, (look for look in looks if look.status is not None))
            changed += await self._add(self.keys.open_runs, (look for look in looks if look.is_open))
        for index in (self.keys.runs, self.keys.open_runs):
            orphans = await self._orphans(index)
            await self._remove(index, orphans)
            changed += len(orphans)
        return changed

    # Keys

    async def _sweep_keys(self, swept: Swept, dry_run: bool) -> None:
        hashes: set[RunId] = set()
        async for page in pages_of_keys(self.redis, f"{self.keys.run('*').run}*"):
            endless = await self._endless(page)
            for look in await look_at(self.redis, self.keys, list(endless)):
                if look.exists and not (look.is_final and look.keep_seconds):
                    continue
                (swept.expired if look.exists else swept.remains).add(look.run_id)
                if not dry_run and await self._expire_but_hash(look.run_id, endless[look.run_id]):
                    hashes.add(look.run_id)
        # When every other key has been met: a hash without an end tells that its run is not done with.
        for run_id in hashes:
            await expire_keys(self.redis, self.keys.run(run_id).run, [], last=True)

    async def _expire_but_hash(self, run_id: RunId, found: Sequence[str]) -> bool:
        """Whether the run's hash was found, too."""
        run = self.keys.run(run_id).run
        others = [key for key in found if key != run]
        await expire_keys(self.redis, run, others, last=False)
        return len(others) < len(found)

    async def _endless(self, page: Sequence[str]) -> dict[RunId, list[str]]:
        """The keys that have no end, by run."""
        found: dict[RunId, list[str]] = defaultdict(list)
        ends = await ask_each(self.redis, lambda pipe, key: pipe.pttl(key), page)
        for key, end in zip(page, ends, strict=True):
            if end == NO_END:
                found[self.keys.run_id_of(key)].append(key)
        return found

    # Indexes

    async def _orphans(self, index: str) -> set[str]:
        """Entries of runs that are gone, and, if the index is that of open runs, of runs that are over."""
        found: set[str] = set()
        latest = now() - self.grace_seconds * 1000
        async for page in pages_of_index(self.redis, index):
            times = dict(page)
            for look in await look_at(self.redis, self.keys, list(times)):
                is_over = look.is_final and index == self.keys.open_runs
                if is_over or (not look.exists and times[look.run_id] <= latest):
                    found.add(look.run_id)
        return found

    async def _add(self, index: str, looks: Iterable[Look]) -> int:
        entries = {str(look.run_id): int(look.created) for look in looks}
        if not entries:
            return 0
        return int(await self.redis.command(lambda client: client.zadd(index, entries, nx=True), index))

    async def _remove(self, index: str, run_ids: set[str]) -> None:
        if run_ids:
            await self.redis.command(lambda client: client.zrem(index, *run_ids), index)
