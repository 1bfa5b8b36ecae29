"""`graphflow gc` finishes what crashes left undone in a store; `graphflow delete` removes a run."""

from __future__ import annotations

import asyncio

from graphflow.cli.faces import Face
from graphflow.cli.run import start_logging
from graphflow.cli.stored import LATEST
from graphflow.errors import RunNotFound
from graphflow.ids import RunId, check_run_id
from graphflow.server.address import Address
from graphflow.settings import load_settings
from graphflow.store.opening import address_of, is_there
from graphflow.store.redis_store import RedisStore
from graphflow.store.upkeep import Swept


def collect_garbage(*, dry_run: bool, url: str | None) -> None:
    start_logging(verbose=False)
    face, address = Face(), address_of(url)
    swept = asyncio.run(_sweep(address, dry_run)) if is_there(address) else Swept()
    for line in _lines(swept, would="would have " if dry_run else "") or ["nothing to do"]:
        face.say(line)


async def _sweep(address: Address, dry_run: bool) -> Swept:
    async with _store(address) as store:
        return await store.upkeep().sweep(dry_run=dry_run)


def _lines(swept: Swept, *, would: str) -> list[str]:
    entries = len(swept.forgotten) + len(swept.closed)
    found = [
        (len(swept.expired), f"{would}given an end to {_count(len(swept.expired), 'finished run')}"),
        (len(swept.remains), f"{would}removed what was left of {_count(len(swept.remains), 'run')}"),
        (entries, f"{would}removed {_count(entries, 'index entry', 'index entries')}"),
    ]
    return [line for count, line in found if count]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def delete_run(reference: str, *, url: str | None) -> None:
    """RunNotFound, or LeaseHeld if a process drives it."""
    start_logging(verbose=False)
    run_id = RunId(reference) if reference == LATEST else check_run_id(reference)
    address = address_of(url)
    if not is_there(address):
        raise RunNotFound(reference, address.masked)
    Face().say(f"deleted {asyncio.run(_delete(address, run_id))}")


async def _delete(address: Address, run_id: RunId) -> RunId:
    async with _store(address) as store:
        if run_id == LATEST:
            latest = await store.recent(1)
            if not latest:
                raise RunNotFound(run_id, address.masked)
            run_id = latest[0].id
        await store.delete(run_id)
        return run_id


def _store(address: Address) -> RedisStore:
    return RedisStore(address, prefix=load_settings().prefix)
