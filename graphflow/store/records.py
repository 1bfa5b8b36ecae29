"""What is stored of a map's items: they themselves, their results and failures, and which of them have neither.

The indexes asked for may be millions: values come as many at a time as keep the server a short while.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from graphflow.errors import CorruptState
from graphflow.ids import ItemNumber, enumerate_items, item_number
from graphflow.run import Failure, SourcePage
from graphflow.store.fields import item_failure_from_text, page_from_text
from graphflow.store.keys import RunKeys
from graphflow.store.loading import Fields, has_gaps, understood, unfinished_indexes
from graphflow.store.patient_client import PatientClient


async def read_items(redis: PatientClient, key: str, indexes: Sequence[ItemNumber]) -> list[str]:
    """Texts of items, in the order of `indexes`. CorruptState."""
    texts: list[str] = []
    for index, text in zip(indexes, await redis.values(key, indexes), strict=True):
        if text is None:
            raise CorruptState(key, f"item {index} is missing")
        texts.append(text)
    return texts


async def read_result_pages(
    redis: PatientClient, keys: RunKeys, name: str, start: int, stop: int | None
) -> AsyncIterator[list[tuple[ItemNumber, str]]]:
    """Index and text of the results that are there, from one index up to another or to the last."""
    if stop is None:
        span = await redis.command(lambda client: client.hget(keys.map(name), "span"), keys.map(name))
        stop = understood(keys.map(name), lambda: int(span or 0))
    async for texts in redis.pages_of_values(keys.map_out(name), range(start, stop)):
        yield [(index, text) for index, text in enumerate_items(texts, start) if text is not None]
        start += len(texts)


async def read_visit_results(
    redis: PatientClient, keys: RunKeys, name: str, visit: int, indexes: Sequence[ItemNumber]
) -> list[str | None] | None:
    """Texts of one visit's results, in the order of `indexes`; None if its records have made room for others."""
    found = await redis.values(keys.map_out(name), indexes)
    # After the records: had they been of another visit, this one would not be there any more.
    recorded = await redis.command(lambda client: client.hget(keys.map(name), "visit"), keys.map(name))
    return found if recorded == str(visit) else None


async def read_failures(
    redis: PatientClient, keys: RunKeys, name: str
) -> list[tuple[ItemNumber, Failure, int]]:
    """(index, failure, attempts) of the items that failed, in their order. CorruptState."""
    key = keys.map_failed(name)
    names = await redis.field_names(key)
    indexes = understood(key, lambda: sorted(map(item_number, names)))
    texts = await redis.values(key, indexes)
    return understood(
        key,
        lambda: [
            (index, *item_failure_from_text(text))
            for index, text in zip(indexes, texts, strict=True)
            if text is not None
        ],
    )


async def read_source_pages(redis: PatientClient, keys: RunKeys, name: str) -> list[SourcePage]:
    """The pages that a map has taken from its generator, in their order. CorruptState."""
    key = keys.map_pages(name)
    (fields,) = await redis.hashes([key])
    return understood(key, lambda: pages_from(fields))


def pages_from(fields: Fields) -> list[SourcePage]:
    """The same as read."""
    pages = [page_from_text(start, text) for start, text in fields.items()]
    return sorted(pages, key=lambda page: page.start)


async def read_unfinished(
    redis: PatientClient, keys: RunKeys, name: str, lender: str | None, stored: Fields
) -> set[ItemNumber]:
    """The indexes of items that have neither a result nor a failure; `stored` is the map's hash."""
    items = await redis.field_names(keys.items(name, lender)) if has_gaps(stored) else None
    done = await redis.field_names(keys.map_out(name))
    failed = await redis.field_names(keys.map_failed(name))
    return unfinished_indexes(keys.map(name), stored, items, done, failed)
