"""Following a map through its events: where the reading ends, and what is handed out when events are missing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from graphflow import map_results
from graphflow.events import (
    Event,
    EventsTrimmed,
    ItemsFinished,
    MapOpened,
    NodeStarted,
    NodeSucceeded,
    RunStarted,
)
from graphflow.ids import RunId
from graphflow.map_results import results_as_completed
from graphflow.store.contract import MapLook

WHEN = {"revision": 1, "at": 0.0}


def of_map(kind: type[Event], **fields: Any) -> Event:
    return kind(**WHEN, **({"node": "double", "visit": 1} | fields))


def finished(indexes: str, **fields: Any) -> Event:
    return of_map(ItemsFinished, count=1, indexes=indexes, **fields)


class Script:
    """A store of which each page of events is given once; the last one is given for ever."""

    def __init__(self, pages: Sequence[list[Event]], *, span: int, looks: Sequence[MapLook]) -> None:
        self.pages = list(pages)
        self.looks = list(looks)
        self.span = span
        self.asked: list[int] = []

    async def graph(self, run_id: RunId) -> dict[str, Any]:
        return {"double": {"config": {"map_over": "items"}}}

    async def look_at_map(self, run_id: RunId, node: str) -> MapLook:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    async def events(self, run_id: RunId, after: str) -> list[tuple[str, Event]]:
        await asyncio.sleep(0)
        page = self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]
        return [(f"{after}.{place}", event) for place, event in enumerate(page)]

    async def visit_results(
        self, run_id: RunId, node: str, visit: int, indexes: Sequence[int]
    ) -> list[str | None] | None:
        assert visit == 1
        self.asked += indexes
        return [str(index) if index < self.span else None for index in indexes]


def active(*, span: int) -> MapLook:
    return MapLook(visit=1, is_active=True, run_is_over=False, recorded=1, span=span)


def over(*, span: int) -> MapLook:
    return MapLook(visit=1, is_active=False, run_is_over=True, recorded=1, span=span)


def follow(script: Script) -> list[int]:
    async def main() -> list[int]:
        async with asyncio.timeout(5):
            found = results_as_completed(script, RunId("run"), "double")  # type: ignore[arg-type]
            return [index async for index, _ in found]

    return asyncio.run(main())


def test_reading_ends_with_the_visit_although_the_run_goes_on_and_on() -> None:
    busy = [of_map(NodeStarted, node="other")] * 500
    script = Script(
        [[of_map(MapOpened, total=3), finished("2")], [finished("0-1"), of_map(NodeSucceeded, ms=1.0)], busy],
        span=3,
        looks=[active(span=3)],
    )

    assert follow(script) == [2, 0, 1]


def test_items_of_other_maps_and_visits_are_passed_over() -> None:
    others = [
        finished("0-1", visit=2),
        finished("0-1", node="other"),
        of_map(NodeSucceeded, node="other", ms=1.0),
    ]
    script = Script(
        [
            [of_map(MapOpened, total=2), *others, finished("1")],
            [finished("0"), of_map(NodeSucceeded, ms=1.0)],
        ],
        span=2,
        looks=[active(span=2)],
    )

    assert follow(script) == [1, 0]
    assert script.asked == [1, 0]


def test_records_that_no_event_tells_of_come_in_input_order_and_once() -> None:
    pages = [
        [RunStarted(**WHEN), of_map(MapOpened, total=20), finished("17")],
        [EventsTrimmed(**WHEN), finished("3 5-6")],
        [],
    ]
    script = Script(pages, span=20, looks=[active(span=20), active(span=20), over(span=20)])

    assert follow(script) == [17, *range(17), 18, 19]
    assert sorted(script.asked) == list(range(20)), "no record is read twice"


def test_what_is_committed_between_the_look_and_the_end_is_not_lost() -> None:
    pages: list[list[Event]] = [[of_map(MapOpened, total=2), finished("1")], [], [finished("0")], []]
    script = Script(pages, span=2, looks=[active(span=2), over(span=2)])

    assert follow(script) == [1, 0]


def test_items_by_the_hundred_thousand_are_read_in_pages() -> None:
    events = [finished(f"{start}-{start + 499}") for start in range(0, 100_000, 500)]
    script = Script(
        [[of_map(MapOpened, total=100_000), *events, of_map(NodeSucceeded, ms=1.0)]],
        span=100_000,
        looks=[active(span=100_000)],
    )

    assert follow(script) == list(range(100_000))
    assert len(script.asked) == 100_000


def test_index_set_knows_what_is_missing() -> None:
    indexes = map_results._IndexSet()
    for index in (0, 9, *range(16, 32), 100):
        indexes.add(index)

    assert [index for index in range(110) if index in indexes] == [0, 9, *range(16, 32), 100]
    assert list(indexes.missing(35)) == [*range(1, 9), *range(10, 16), 32, 33, 34]
    assert list(indexes.missing(0)) == []
