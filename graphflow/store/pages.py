"""How is a whole store read? In pages, while others go on writing: nothing here loads it all or holds it up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from graphflow.ids import RunId
from graphflow.store.keys import StoreKeys
from graphflow.store.patient_client import PatientClient

if TYPE_CHECKING:
    from redis.asyncio import Redis

#: Keys, or entries of an index, that Redis looks at in one step of a scan.
SCAN_COUNT = 1_000


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
