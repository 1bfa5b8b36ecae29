"""A generator that yields something else when its map goes on: the run fails and says so, whatever has changed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from graphflow import Agent, RunResult, RunStatus
from graphflow.store.keys import StoreKeys
from tests.acceptance.support import agent_on, client, task, until
from tests.helpers import run

Rows = list[object]
#: Elements that are taken before the run is left.
TAKEN = 5


class Table:
    """A source whose rows are changed between two drives of one run."""

    def __init__(self, redis_url: str, *, seeks: bool, where: str | None = None) -> None:
        self.url, self.seeks, self.where = redis_url, seeks, where
        self.rows: Rows = [f"row {number}" for number in range(8)]
        self.is_held = True
        self.done: list[object] = []

    async def from_start(self) -> AsyncIterator[object]:
        async for row in self.after(0):
            yield row

    async def after(self, start: int) -> AsyncIterator[object]:
        for number in range(start, len(self.rows)):
            if number == TAKEN and self.is_held:
                await asyncio.sleep(600)
            yield self.rows[number]

    def agent(self) -> Agent:
        agent = agent_on(self.url, name="table")
        source: Callable[..., AsyncIterator[object]] = self.after if self.seeks else self.from_start

        @agent.node(map_over=source, where=self.where)
        async def work(item: object) -> object:
            self.done.append(item)
            return item

        return agent

    async def interrupted(self, run_id: str) -> None:
        """The run is left when all elements that were taken have their records."""
        agent = self.agent()
        running = asyncio.create_task(agent.run_task(task(), run_id=run_id))
        is_done = lambda: len(self.done) == sum(map(self.passes, range(TAKEN)))  # noqa: E731
        await until(is_done)
        with client(self.url) as connection:
            key = StoreKeys().run(run_id).map("work")
            await until(lambda: connection.hget(key, "done") == str(len(self.done)))
        running.cancel()
        await asyncio.wait([running])
        self.is_held = False

    def passes(self, number: int) -> bool:
        return self.where is None or number % 2 == 0

    async def go_on(self, run_id: str) -> RunResult:
        return await self.agent().run_task(task(), run_id=run_id)


@pytest.fixture(params=[False, True], ids=["anew", "seeks"])
def table(request: pytest.FixtureRequest, redis_url: str) -> Table:
    return Table(redis_url, seeks=request.param)


@pytest.fixture
def run_id() -> str:
    return f"table-{uuid.uuid4().hex}"


CHANGES: dict[str, Callable[[Rows], None]] = {
    "a row before": lambda rows: rows.insert(0, "new"),
    "a row less": lambda rows: rows.remove("row 1"),
    "the last row that was taken": lambda rows: rows.__setitem__(TAKEN - 1, "other"),
    "fewer rows than were taken": lambda rows: rows.__delitem__(slice(2, None)),
    "none": lambda rows: rows.clear(),
    "what cannot be stored": lambda rows: rows.__setitem__(TAKEN - 1, object()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_source_that_has_changed_between_a_kill_and_the_resume_fails_the_run_and_says_so(
    table: Table, run_id: str, change: Callable[[Rows], None]
) -> None:
    async def main() -> None:
        await table.interrupted(run_id)
        done = list(table.done)
        change(table.rows)

        outcome = await table.go_on(run_id)

        assert outcome.status is RunStatus.FAILED
        (failure,) = outcome.failures
        assert failure.node == "work"
        if not any(type(row) is object for row in table.rows):
            assert "yields something else than what is stored of it" in failure.error
            assert "start a new run" in failure.error
        assert table.done == done, "an item ran that is another than the one of its place"

    run(main())


def test_changed_source_is_told_by_its_page(redis_url: str, run_id: str) -> None:
    table = Table(redis_url, seeks=False)

    async def main() -> None:
        await table.interrupted(run_id)
        table.rows[1] = "other"

        (failure,) = (await table.go_on(run_id)).failures

        assert failure.error.startswith("SourceChanged: ")
        assert "elements 0 to " in failure.error or "element 1 is another" in failure.error

    run(main())


def test_source_that_is_put_back_goes_on_when_the_run_is_tried_again(table: Table, run_id: str) -> None:
    async def main() -> None:
        await table.interrupted(run_id)
        last = table.rows[TAKEN - 1]
        table.rows[TAKEN - 1] = "other"
        failed = await table.go_on(run_id)
        table.rows[TAKEN - 1] = last

        again = await table.agent().fork(failed.run_id)

        assert again["work"] == table.rows
        assert sorted(map(str, table.done)) == sorted(map(str, table.rows))

    run(main())


def test_source_that_has_only_grown_at_its_end_goes_on(table: Table, run_id: str) -> None:
    async def main() -> None:
        await table.interrupted(run_id)
        table.rows += ["row 8", "row 9"]

        assert (await table.go_on(run_id))["work"] == table.rows
        assert len(table.done) == 10

    run(main())


@pytest.mark.parametrize("seeks", [False, True], ids=["anew", "seeks"])
def test_only_elements_that_became_items_are_compared(redis_url: str, run_id: str, seeks: bool) -> None:
    """What `where` has left out did nothing, and may depend on the state of then."""
    table = Table(redis_url, seeks=seeks, where="index % 2 == 0")

    async def main() -> None:
        await table.interrupted(run_id)
        table.rows[3] = "left out as well"

        assert (await table.go_on(run_id))["work"] == table.rows[::2]

        table.is_held = True
        table.done.clear()
        await table.interrupted(f"{run_id}-2")
        table.rows[4] = "other"

        assert (await table.go_on(f"{run_id}-2")).status is RunStatus.FAILED

    run(main())


def test_run_that_knows_no_pages_goes_on(table: Table, run_id: str) -> None:
    """As those of earlier versions, of which only a generator that seeks can be held against its last item."""

    async def main() -> None:
        await table.interrupted(run_id)
        with client(table.url) as connection:
            assert connection.delete(StoreKeys().run(run_id).map_pages("work"))

        assert (await table.go_on(run_id))["work"] == table.rows

    run(main())
