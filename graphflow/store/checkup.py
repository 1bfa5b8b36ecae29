"""How is a store? Everything that can be asked of it at once, for `graphflow doctor`; what is wrong as sentences."""

from __future__ import annotations

import shlex
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graphflow.server.address import Address
from graphflow.server.folder_modes import open_to_others
from graphflow.store.checks import Risk, Server, ask_server, risks_of
from graphflow.store.keys import StoreKeys
from graphflow.store.patient_client import PatientClient
from graphflow.store.redis_store import SCHEMA
from graphflow.store.survey import Survey, server_time, survey
from graphflow.store.upkeep import Upkeep

#: PINGs whose median is the latency.
PINGS = 20
#: Milliseconds between the clocks from which on times in the log mislead.
MAX_SKEW_MS = 2_000.0
#: Seconds for which the store is asked until it answers.
PATIENCE_SECONDS = 5.0
#: Run ids that a sentence lists.
IDS_SHOWN = 5


@dataclass(slots=True)
class Checkup:
    """One look at a store."""

    url: str
    prefix: str
    server: Server = field(default_factory=Server)
    #: As stored; empty if nothing is.
    schema: str = ""
    latency_ms: float = 0.0
    #: How far the server's clock is ahead of this process's.
    clock_skew_ms: float = 0.0
    risks: list[Risk] = field(default_factory=list)
    survey: Survey = field(default_factory=Survey)
    #: Ids in an index that they do not belong to.
    orphaned: list[str] = field(default_factory=list)
    #: What other users could read of an embedded folder until this look closed it, and what they still can.
    closed: list[Path] = field(default_factory=list)
    open_to_others: list[Path] = field(default_factory=list)
    #: Index entries that were added or removed; None if that was not asked for.
    fixed: int | None = None

    @property
    def problems(self) -> list[str]:
        """What somebody should do something about."""
        found = [str(risk) for risk in self.risks]
        if self.open_to_others:
            found.append(
                f"other users can read {names_of(self.open_to_others)}, with the state of runs in it; let its owner close "
                f"it: chmod -R go= {shlex.quote(str(self.open_to_others[0]))}"
            )
        if not self.is_known_schema:
            found.append(
                f"the store has schema {self.schema!r}, this graphflow knows {SCHEMA}; upgrade graphflow-engine"
            )
        if abs(self.clock_skew_ms) > MAX_SKEW_MS:
            found.append(f"the clocks differ by {self.clock_skew_ms / 1000:.1f} s; set one of them")
        found += [f"run {run_id} is in quarantine: {why}" for run_id, why in self.survey.quarantined.items()]
        found += _about("not in the indexes", self.survey.unindexed, "`graphflow doctor --fix` adds them")
        found += _about(
            "in an index but gone or over", self.orphaned, "`graphflow doctor --fix` removes them"
        )
        found += _about("over but without an end", self.survey.without_end, "`graphflow gc` gives them one")
        return found

    @property
    def is_known_schema(self) -> bool:
        return not self.schema or (self.schema.isdecimal() and int(self.schema) <= SCHEMA)


def names_of(paths: Sequence[Path]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}" if paths else ""


def _about(what: str, run_ids: list[str], remedy: str) -> list[str]:
    if not run_ids:
        return []
    more = ", ..." if len(run_ids) > IDS_SHOWN else ""
    runs = "1 run is" if len(run_ids) == 1 else f"{len(run_ids):,} runs are"
    return [f"{runs} {what} ({', '.join(run_ids[:IDS_SHOWN])}{more}); {remedy}"]


async def check_up(address: Address, prefix: str, *, fix: bool = False) -> Checkup:
    """Look at everything; with `fix`, after the indexes have been rebuilt. StoreErrors."""
    redis, keys = PatientClient(address, PATIENCE_SECONDS), StoreKeys(prefix)
    checkup = Checkup(address.masked, prefix)
    before = _open_to_others(address)
    await redis.open()
    checkup.open_to_others = _open_to_others(address)
    checkup.closed = [path for path in before if path not in checkup.open_to_others]
    try:
        checkup.server = await ask_server(redis)
        checkup.risks = [] if address.kind == "memory" else risks_of(checkup.server)
        checkup.latency_ms = await _latency_ms(redis)
        checkup.clock_skew_ms = await _clock_skew_ms(redis)
        checkup.schema = await redis.command(lambda client: client.hget(keys.meta, "schema"), keys.meta) or ""
        if checkup.is_known_schema:
            upkeep = Upkeep(redis, keys)
            checkup.fixed = await upkeep.rebuild_indexes() if fix else None
            checkup.survey = await survey(redis, keys)
            checkup.orphaned = await upkeep.orphans()
    finally:
        await redis.aclose()
    return checkup


def _open_to_others(address: Address) -> list[Path]:
    return open_to_others(address.path) if address.kind == "embedded" and address.path else []


async def _latency_ms(redis: PatientClient) -> float:
    times = []
    for _ in range(PINGS):
        began = time.perf_counter()
        await redis.command(lambda client: client.ping(), "PING")
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


async def _clock_skew_ms(redis: PatientClient) -> float:
    before = time.time()
    there = await server_time(redis)
    return there - (before + time.time()) / 2 * 1000
