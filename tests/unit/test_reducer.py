"""The fold of a map's results: each result once and in input order, whenever its record comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from graphflow.engine.maps import reducer as reducer_module
from graphflow.engine.maps.reducer import Reducer
from graphflow.run import MapState


def test_results_beyond_those_that_are_kept_are_read_from_their_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reducer_module, "KEPT_ITEMS", 2)
    reads: list[tuple[int, int]] = []
    state = MapState(1, total=5, span=5, unfinished={4})

    async def read(start: int, stop: int) -> AsyncIterator[list[tuple[int, str]]]:
        reads.append((start, stop))
        yield [(index, str(index)) for index in range(start, stop)]

    async def main() -> None:
        reducer = Reducer("digits", lambda value, result: f"{value}{result}", state, read)
        reducer.keep([(index, str(index)) for index in range(4)])

        await reducer.follow(list)

        assert reads == [(0, 4)]
        assert await reducer.result([(4, "4")]) == '"01234"'

    asyncio.run(main())


def test_result_that_is_not_stored_yet_is_folded_with_the_last_ones() -> None:
    """The mirror has records before the store has them: items 2 and 3 are folded and their commit is under way."""
    stored = {0: "0", 1: "1"}
    state = MapState(1, total=5, span=5, unfinished={4})

    async def read(start: int, stop: int) -> AsyncIterator[list[tuple[int, str]]]:
        yield [(index, stored[index]) for index in range(start, stop) if index in stored]

    async def main() -> None:
        reducer = Reducer("digits", lambda value, result: f"{value}{result}", state, read)

        await reducer.follow(lambda: [3, 2])

        assert await reducer.result([(2, "2"), (3, "3"), (4, "4")]) == '"01234"'

    asyncio.run(main())
