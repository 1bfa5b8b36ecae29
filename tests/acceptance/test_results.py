"""Results of a map read from outside the run: in input order, or as they are committed, each exactly once."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from graphflow import Agent, MapNotFound, NodeStatus, RedisCache, RunNotFound, RunStatus
from graphflow.store import held_run
from tests.acceptance.support import agent_on, cancel, task

#: Items of the map that most tests read, and those that wait until they are let go.
ITEMS = 200
SLOW = [0, 7, 50, 150, 199]


class Gate:
    """An agent whose map doubles its items, the slow ones only when `release` is set."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.agent = agent_on(url, **settings)
        self.release = asyncio.Event()
        self.begun = asyncio.Event()

        @self.agent.node(map_over="items", max_retries=1)
        async def double(item: int) -> int:
            self.begun.set()
            if item in SLOW:
                await self.release.wait()
            return 2 * item

        @self.agent.node
        def after(double: list[int]) -> int:
            return len(double)

    def start(self, run_id: str, items: int = ITEMS) -> asyncio.Task[Any]:
        return asyncio.create_task(
            self.agent.run_task(task(), state={"items": list(range(items))}, run_id=run_id)
        )


def reader_on(url: str) -> Agent:
    """An agent that knows the store and nothing else."""
    return Agent(cache=RedisCache(url))


async def read(results: AsyncIterator[tuple[int, Any]], count: int | None = None) -> list[tuple[int, Any]]:
    """Some results, or all; TimeoutError if they do not come."""
    found: list[tuple[int, Any]] = []
    async with asyncio.timeout(20):
        while count is None or len(found) < count:
            try:
                found.append(await anext(results))
            except StopAsyncIteration:
                break
    return found


def doubled(indexes: Any) -> list[tuple[int, int]]:
    return [(index, 2 * index) for index in indexes]


def test_results_come_before_the_run_is_over_and_slow_ones_last(redis_url: str) -> None:
    async def main() -> None:
        gate = Gate(redis_url)
        running = gate.start("results-live")
        await gate.begun.wait()
        results = reader_on(redis_url).results("results-live", "double", as_completed=True)

        early = await read(results, ITEMS - len(SLOW))

        assert not running.done()
        assert sorted(early) == doubled(sorted(set(range(ITEMS)) - set(SLOW)))

        gate.release.set()
        late = await read(results)

        assert sorted(late) == doubled(SLOW)
        assert (await running).status is RunStatus.COMPLETE

    asyncio.run(main())


_READER = """
import asyncio, sys
from graphflow import Agent, RedisCache

async def main():
    agent = Agent(cache=RedisCache(sys.argv[1]))
    async for index, value in agent.results(sys.argv[2], "double", as_completed=True):
        print(index, value, flush=True)
    print("end", flush=True)

asyncio.run(main())
"""


def test_another_process_reads_along(redis_url: str) -> None:
    async def main() -> None:
        gate = Gate(redis_url)
        running = gate.start("results-process", items=20)
        await gate.begun.wait()
        reader = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _READER, redis_url, "results-process", stdout=asyncio.subprocess.PIPE
        )
        assert reader.stdout is not None
        try:
            async with asyncio.timeout(20):
                early = [(await reader.stdout.readline()).decode().strip() for _ in range(18)]
                assert not running.done()
                gate.release.set()
                late = (await reader.stdout.read()).decode().splitlines()
        finally:
            if reader.returncode is None:
                reader.kill()
            await reader.wait()
        await running

        assert sorted(early) == sorted(f"{index} {2 * index}" for index in range(20) if index not in SLOW)
        assert late[-1] == "end"
        assert sorted(late[:-1]) == ["0 0", "7 14"]

    asyncio.run(main())


def test_results_that_are_there_come_in_input_order_while_the_run_goes_on(redis_url: str) -> None:
    async def main() -> None:
        gate = Gate(redis_url)
        running = gate.start("results-partial", items=10)
        follower = gate.agent.results("results-partial", "double", as_completed=True)
        await gate.begun.wait()
        await read(follower, 8)

        there = await read(reader_on(redis_url).results("results-partial", "double"))
        gate.release.set()
        await running
        whole = await read(reader_on(redis_url).results("results-partial", "double"))

        assert there == doubled([1, 2, 3, 4, 5, 6, 8, 9])
        assert whole == doubled(range(10))
        assert sorted(await read(follower)) == doubled([0, 7])

    asyncio.run(main())


def test_finished_run_tells_in_which_order_its_items_were_committed(redis_url: str) -> None:
    async def main() -> None:
        gate = Gate(redis_url)
        running = gate.start("results-finished")
        await gate.begun.wait()
        live = gate.agent.results("results-finished", "double", as_completed=True)
        seen = await read(live, ITEMS - len(SLOW))
        gate.release.set()
        seen += await read(live)
        await running
        reader = reader_on(redis_url)

        assert await read(reader.results("results-finished", "double", as_completed=True)) == seen
        assert await read(reader.results("results-finished", "double")) == doubled(range(ITEMS))

    asyncio.run(main())


def test_reader_that_comes_before_the_map_waits_for_it(redis_url: str) -> None:
    async def main() -> None:
        agent, may_go_on, begun = agent_on(redis_url), asyncio.Event(), asyncio.Event()

        @agent.node
        async def source() -> list[int]:
            begun.set()
            await may_go_on.wait()
            return [1, 2, 3]

        @agent.node(map_over="source")
        async def double(item: int) -> int:
            return 2 * item

        running = asyncio.create_task(agent.run_task(task(), run_id="results-early"))
        await begun.wait()
        reading = asyncio.create_task(read(agent.results("results-early", "double", as_completed=True)))
        assert await read(agent.results("results-early", "double")) == []
        may_go_on.set()

        assert sorted(await reading) == [(0, 2), (1, 4), (2, 6)]
        await running

    asyncio.run(main())


def test_failed_items_are_left_out_and_a_map_that_never_ran_has_none(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(map_over="items", max_retries=1)
    async def work(item: int) -> int:
        if item % 2:
            raise ValueError(str(item))
        return item

    @agent.node(map_over="items", condition="1 > 2")
    async def never(item: int) -> int:
        return item

    async def main() -> None:
        outcome = await agent.run_task(task(), state={"items": [0, 1, 2, 3]}, run_id="results-failed")

        assert outcome.node_results["never"].status is NodeStatus.SKIPPED
        for as_completed in (False, True):
            found = await read(agent.results("results-failed", "work", as_completed=as_completed))
            assert found == [(0, 0), (2, 2)]
            assert await read(agent.results("results-failed", "never", as_completed=as_completed)) == []

    asyncio.run(main())


@pytest.fixture
def short_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis cuts a stream by whole nodes of 100 entries."""
    monkeypatch.setattr(held_run, "EVENTS_KEPT", 100)


def counting(url: str, gates: dict[range, asyncio.Event]) -> Agent:
    """Each item writes state, so that it is committed with an event of its own. Some wait at a gate."""
    agent = agent_on(url, max_concurrent_tasks=700)

    @agent.node(map_over="items")
    async def double(item: int, cache: Any) -> int:
        for indexes, gate in gates.items():
            if item in indexes:
                await gate.wait()
        await cache.increment("count")
        return 2 * item

    return agent


def events_kept(agent: Agent, run_id: str) -> int:
    async def count() -> int:
        async with agent.cache.store() as store:
            after, found = "0", 0
            while page := await store.events(run_id, after):  # type: ignore[arg-type]
                after, found = page[-1][0], found + len(page)
            return found

    return asyncio.run(count())


@pytest.mark.usefixtures("short_stream")
def test_reader_that_comes_after_the_stream_was_cut_gets_every_result_once(redis_url: str) -> None:
    agent = counting(redis_url, {})
    agent.run_task_sync(task(), state={"items": list(range(600))}, run_id="results-cut")
    assert events_kept(agent, "results-cut") < 500, "events of items should be gone"

    async def main() -> None:
        found = await read(reader_on(redis_url).results("results-cut", "double", as_completed=True))

        assert Counter(found) == Counter(doubled(range(600)))

    asyncio.run(main())


@pytest.mark.usefixtures("short_stream")
def test_reader_that_falls_behind_the_cut_gets_what_it_missed_while_the_run_goes_on(redis_url: str) -> None:
    async def main() -> None:
        most, last = asyncio.Event(), asyncio.Event()
        agent = counting(redis_url, {range(5, 599): most, range(599, 600): last})
        state = {"items": list(range(600))}
        running = asyncio.create_task(agent.run_task(task(), state=state, run_id="results-lag"))
        results = await begun(agent, "results-lag")
        early = await read(results, 5)
        most.set()
        async with asyncio.timeout(20):
            while (await agent.progress("results-lag"))["double"].done < 599:  # noqa: ASYNC110 - it is in Redis
                await asyncio.sleep(0.01)

        missed = await read(results, 594)

        last.set()
        assert (await running).status is RunStatus.COMPLETE
        assert await read(results) == doubled([599])
        assert sorted(early) == doubled(range(5))
        assert Counter(early + missed) == Counter(doubled(range(599)))

    asyncio.run(main())


async def begun(agent: Agent, run_id: str) -> AsyncIterator[tuple[int, Any]]:
    """The results of a run that has just been started, as soon as it is stored."""
    async with asyncio.timeout(10):
        while True:
            try:
                await agent.progress(run_id)
                return agent.results(run_id, "double", as_completed=True)
            except RunNotFound:
                await asyncio.sleep(0.002)


def test_reader_of_a_visit_ends_when_the_next_one_has_replaced_it(redis_url: str) -> None:
    async def main() -> None:
        agent, may_go_on = agent_on(redis_url), asyncio.Event()

        @agent.node(outputs=["items"])
        async def plan(cache: Any) -> int:
            visit = await cache.get("visit", 0) + 1
            await cache.set("visit", visit)
            await cache.set("items", [10 * visit + number for number in range(3)])
            return visit

        @agent.node(map_over="items")
        async def double(item: int, plan: int) -> int:
            if item == 12:
                await may_go_on.wait()
            return 2 * item

        @agent.decide(after="double", to=["plan", "report"])
        def enough(plan: int) -> str:
            return "report" if plan == 3 else "plan"

        @agent.node(start=False)
        def report() -> str:
            return "done"

        running = asyncio.create_task(agent.run_task(task(), run_id="results-visits"))
        results = await begun(agent, "results-visits")
        first = await read(results, 2)
        may_go_on.set()
        await running

        assert sorted(first) == [(0, 20), (1, 22)]
        assert await read(results) == [], "the third visit has the records now"
        last = agent.results("results-visits", "double", as_completed=True)
        assert sorted(await read(last)) == [(0, 60), (1, 62), (2, 64)]

    asyncio.run(main())


def test_reader_of_a_fork_gets_what_it_inherited_before_what_it_runs(redis_url: str) -> None:
    async def main() -> None:
        agent, release, is_down = agent_on(redis_url), asyncio.Event(), True

        @agent.node(map_over="items", max_retries=1)
        async def double(item: int) -> int:
            if is_down and item in (2, 4):
                raise ConnectionError("down")
            if not is_down:
                await release.wait()
            return 2 * item

        first = await agent.run_task(task(), state={"items": list(range(6))}, run_id="results-parent")
        is_down = False
        running = asyncio.create_task(agent.fork("results-parent", run_id="results-fork"))
        results = await begun(agent, "results-fork")

        inherited = await read(results, 4)
        release.set()
        own = await read(results)

        assert first.status is RunStatus.PARTIAL
        assert (await running).status is RunStatus.COMPLETE
        assert inherited == doubled([0, 1, 3, 5])
        assert sorted(own) == doubled([2, 4])

    asyncio.run(main())


def test_reader_that_leaves_holds_up_nobody(redis_url: str) -> None:
    async def main() -> None:
        gate = Gate(redis_url)
        running = gate.start("results-left", items=20)
        await gate.begun.wait()
        async for _ in gate.agent.results("results-left", "double", as_completed=True):
            break
        stuck = asyncio.create_task(read(gate.agent.results("results-left", "double", as_completed=True)))
        await asyncio.sleep(0)
        await cancel(stuck)
        gate.release.set()

        assert (await running)["after"] == 20

    asyncio.run(main())


@pytest.mark.parametrize("as_completed", [False, True])
def test_unknown_run_or_map_is_named(redis_url: str, as_completed: bool) -> None:
    async def main() -> None:
        gate = Gate(redis_url)
        gate.release.set()
        await gate.start(f"results-names-{as_completed}", items=1)
        with pytest.raises(MapNotFound, match="no map 'dubble'; its maps are double"):
            await read(
                gate.agent.results(f"results-names-{as_completed}", "dubble", as_completed=as_completed)
            )
        with pytest.raises(MapNotFound, match="no map 'after'"):
            await read(
                gate.agent.results(f"results-names-{as_completed}", "after", as_completed=as_completed)
            )
        with pytest.raises(RunNotFound, match="results-nowhere"):
            await read(gate.agent.results("results-nowhere", "double", as_completed=as_completed))

    asyncio.run(main())


def test_deleting_the_run_ends_the_reading(redis_url: str) -> None:
    async def main() -> None:
        gate = Gate(redis_url)
        running = gate.start("results-deleted", items=20)
        await gate.begun.wait()
        results = gate.agent.results("results-deleted", "double", as_completed=True)
        await read(results, 18)
        await cancel(running)
        await gate.agent.delete("results-deleted")

        with pytest.raises(RunNotFound):
            await read(results)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["results", "stream"])
def test_program_that_breaks_off_in_the_middle_ends_without_complaints(
    redis_url: str, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    async def main() -> None:
        gate = Gate(redis_url)
        if how == "stream":
            state = {"items": list(range(20))}
            found: AsyncIterator[Any] = gate.agent.stream(task(), state=state, run_id="results-stream")
        else:
            running = gate.start("results-broken", items=20)
            await gate.begun.wait()
            found = reader_on(redis_url).results("results-broken", "double", as_completed=True)
            assert not running.done()
        async for _ in found:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        asyncio.run(main())

    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
