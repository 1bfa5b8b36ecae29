"""The fold of a map's results: each result once and in input order, whenever its record comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from graphflow.engine.maps.reducer import Reducer
from graphflow.run import MapState


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
