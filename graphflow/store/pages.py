"""How is a whole store read? In pages, while others go on writing: nothing here loads it all or holds it up."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from graphflow.errors import CorruptState
from graphflow.ids import RunId
from graphflow.store.contract import RunHead, UnreadableHead
from graphflow.store.keys import StoreKeys
from graphflow.store.loading import head_from
from graphflow.store.patient_client import PatientClient

if TYPE_CHECKING:
    from redis.asyncio import Redis

#: Keys, or entries of an index, that Redis looks at in one step of a scan.
SCAN_COUNT = 1_000
#: Heads read at a time: at first, for who wants only the latest ones, and at most.
FIRST_HEADS = 20
MAX_HEADS = 500


async def pages_of_keys(redis: PatientClient, pattern: str) -> AsyncIterator[list[str]]:
    """Every key that matches and is there throughout; some come twice. Looks at every key of the database."""
    cursor = 0
    while True:
        cursor, page = await redis.command(_scan(cursor, pattern), pattern)
        if page:
            yield page
        if not int(cursor):
            return


def _scan(cursor: int, pattern: str) -> Callable[[Redis], Any]:
    return lambda client: client.scan(cursor, match=pattern, count=SCAN_COUNT)


async def pages_of_runs(redis: PatientClient, keys: StoreKeys) -> AsyncIterator[list[RunId]]:
    """Every run that has its hash, whatever the indexes say."""
    async for page in pages_of_keys(redis, keys.run("*").run):
        yield list(dict.fromkeys(map(keys.run_id_of, page)))


async def pages_of_index(redis: PatientClient, index: str) -> AsyncIterator[list[tuple[RunId, float]]]:
    """Run ids with their times (ms since 1970) that are in an index throughout, in no order; some come twice."""
    cursor = 0
    while True:
        cursor, page = await redis.command(_scan_index(index, cursor), index)
        if page:
            yield page
        if not int(cursor):
            return


def _scan_index(index: str, cursor: int) -> Callable[[Redis], Any]:
    return lambda client: client.zscan(index, cursor, count=SCAN_COUNT)


async def read_heads(
    redis: PatientClient, keys: StoreKeys, since: float
) -> AsyncGenerator[RunHead | UnreadableHead, None]:
    """The runs of the index, the latest first: those created at `since` (ms since 1970) or later.

    Runs that come meanwhile move the places of the others: none is told twice.
    """
    # The index keeps whole milliseconds.
    first = math.floor(since)
    start, page, told = 0, FIRST_HEADS, set[RunId]()
    while True:
        entries = await _entries(redis, keys.runs, start, page)
        ids = [run_id for run_id, created in entries if created >= first and run_id not in told]
        told.update(ids)
        asked = [key for each in map(keys.run, ids) for key in (each.run, each.task)]
        hashes = await ask_each(redis, lambda pipe, key: pipe.hgetall(key), asked)
        for run_id, fields, task in zip(ids, hashes[::2], hashes[1::2], strict=True):
            # An index entry may be of a run that is gone.
            if fields is not None and not fields:
                continue
            head = _head(run_id, keys, fields, task)
            if isinstance(head, UnreadableHead) or head.created >= since:
                yield head
        if len(entries) < page or entries[-1][1] < first:
            return
        start, page = start + page, min(MAX_HEADS, page * 2)


def _head(
    run_id: RunId, keys: StoreKeys, fields: dict[str, str] | None, task: dict[str, str] | None
) -> RunHead | UnreadableHead:
    run_keys = keys.run(run_id)
    try:
        for key, found in ((run_keys.run, fields), (run_keys.task, task)):
            if found is None:
                raise CorruptState(key, "it is of another type")
        assert fields is not None
        assert task is not None
        return head_from(run_id, run_keys, fields, task)
    except CorruptState as error:
        return UnreadableHead(run_id, error)


async def _entries(redis: PatientClient, index: str, start: int, count: int) -> list[tuple[RunId, float]]:
    entries: list[tuple[RunId, float]] = await redis.command(
        lambda client: client.zrevrange(index, start, start + count - 1, withscores=True), index
    )
    return entries


async def ask_each(redis: PatientClient, ask: Callable[[Any, str], object], keys: Sequence[str]) -> list[Any]:
    """The answer to a read of each key, in one round trip; None where the key is of another type.

    `ask` gives the command to a pipeline.
    """
    from redis.exceptions import ResponseError

    async def send(client: Redis) -> list[Any]:
        async with client.pipeline(transaction=False) as pipe:
            for key in keys:
                ask(pipe, key)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        for place, answer in enumerate(answers):
            if isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE"):
                answers[place] = None
            elif isinstance(answer, Exception):
                raise answer
        return answers

    answers: list[Any] = await redis.command(send, keys[0] if keys else "")
    return answers
