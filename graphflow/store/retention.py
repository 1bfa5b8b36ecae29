"""How long is a run kept, and how does it leave? Gives the keys of a run that is over the time of their end, or removes
them, in batches.

The run's hash goes last: `create` of the same id relies on it to tell that nothing of the run is left. So what a crash
interrupts shows in the hash, and `upkeep.py` goes on with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from graphflow.errors import CorruptState, LeaseHeld, RunNotFound
from graphflow.ids import RunId
from graphflow.planning.plan import Plan
from graphflow.server.owner import is_gone
from graphflow.settings import KEEP_COMPLETE_SECONDS, KEEP_OTHER_SECONDS
from graphflow.store.contract import Retention
from graphflow.store.effects import mailboxes_of
from graphflow.store.fields import Changes
from graphflow.store.keys import RunKeys, StoreKeys
from graphflow.store.pages import pages_of_keys
from graphflow.store.patient_client import PatientClient
from graphflow.store.snapshots import snapshot_keys

#: Keys that one call of a script gives an end or removes.
BATCH = 500
#: What the error of a run says that was deleted before it was over, until it is gone.
DELETED = "it was deleted before it was over"


def retention_fields(kept: Retention) -> Changes:
    """What a run's hash says of it: only what is not the default."""
    fields: Changes = {}
    if kept.complete_seconds != KEEP_COMPLETE_SECONDS:
        fields["keep_complete"] = f"{kept.complete_seconds:g}"
    if kept.other_seconds != KEEP_OTHER_SECONDS:
        fields["keep_other"] = f"{kept.other_seconds:g}"
    return fields


async def expire_keys(redis: PatientClient, run: str, others: Sequence[str], *, last: bool) -> None:
    """Give keys of a run the time of their end, or remove them if it has come; after the `last` of them its hash `run`.

    Nothing happens to a run that is not over or is kept for ever. Keys that a run left behind are removed.
    """
    for start in range(0, max(1, len(others)), BATCH):
        page = others[start : start + BATCH]
        is_last = last and start + BATCH >= len(others)
        arguments = ["1" if is_last else "", KEEP_COMPLETE_SECONDS, KEEP_OTHER_SECONDS]
        answer = await redis.script("expire", [run, *page], arguments)
        if answer[0] in ("open", "kept"):
            return


async def keys_but_hash(redis: PatientClient, keys: RunKeys, plan: Plan) -> list[str]:
    """Every key but its hash that a run of this plan may have."""
    nodes = [node.name for node in plan.nodes]
    maps = [node.name for node in plan.nodes if node.map is not None]
    mailboxes, snapshots = await redis.command(
        lambda client: client.hmget(keys.run, ["mailboxes", "snapshots"]), keys.run
    )
    found = keys.others(nodes, maps, mailboxes_of(keys.run, {"mailboxes": mailboxes}) if mailboxes else ())
    return [*found, *await snapshot_keys(redis, keys, plan)] if snapshots else found


async def delete_run(redis: PatientClient, keys: StoreKeys, run_id: RunId, store_url: str) -> None:
    """Remove every key of a run that nobody drives, then its index entries. LeaseHeld, RunNotFound."""
    run = keys.run(run_id)
    if not await _end(redis, run, run_id):
        await unindex(redis, keys, run_id)
        raise RunNotFound(run_id, store_url)
    async for page in pages_of_run(redis, run):
        await expire_keys(redis, run.run, page, last=False)
    await expire_keys(redis, run.run, [], last=True)
    await unindex(redis, keys, run_id)


async def _end(redis: PatientClient, run: RunKeys, run_id: RunId) -> bool:
    """Take the run from whoever does not live any more to drive it; False if there is none."""
    answer = await redis.script("delete", [run.run, run.lease], ["", DELETED])
    if answer[0] == "held" and is_gone(answer[1]):
        answer = await redis.script("delete", [run.run, run.lease], [answer[3], DELETED])
    if answer[0] == "held":
        raise LeaseHeld(run_id, answer[1], answer[2] / 1000)
    return bool(answer[0] == "ok")


async def unindex(redis: PatientClient, keys: StoreKeys, run_id: RunId) -> None:
    await redis.command(lambda client: client.zrem(keys.open_runs, run_id), keys.open_runs)
    await redis.command(lambda client: client.zrem(keys.runs, run_id), keys.runs)


async def pages_of_run(redis: PatientClient, run: RunKeys) -> AsyncIterator[list[str]]:
    """Every key of a run but its hash, whatever wrote it; looks at every key of the database."""
    async for page in pages_of_keys(redis, f"{run.run}*"):
        others = [key for key in page if key != run.run]
        if others:
            yield others


async def quarantine(redis: PatientClient, keys: StoreKeys, run_id: RunId, error: CorruptState) -> None:
    """Note in a run that it cannot be read, and take it out of the index of open runs: no sweep meets it again.

    Who resumes it by its id tries it anew; `doctor --fix` puts it back into the index.
    """
    with suppress(CorruptState):  # the run's hash itself
        await redis.script("quarantine", [keys.run(run_id).run], [str(error)])
    await redis.command(lambda client: client.zrem(keys.open_runs, run_id), keys.open_runs)
