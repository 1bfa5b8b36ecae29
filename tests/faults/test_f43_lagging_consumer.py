"""F43: who reads a run's events goes away, falls behind, or finds that the stream was cut meanwhile. The run does not notice; the
reader is told of a gap."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphflow import Agent, RedisCache, RunStatus
from graphflow.events import EventsTrimmed, RunFinished, RunStarted
from graphflow.ids import RunId
from graphflow.server.address import parse_address
from graphflow.store import held_run
from graphflow.store.redis_store import RedisStore
from tests.acceptance.support import task
from tests.faults.harness import looking_at
from tests.faults.invariants import check_over
from tests.helpers import run, wait_until
from tests.servers import ENGINES, RealServer

#: Events that are kept; Redis cuts a stream by whole nodes of 100 entries.
KEPT = 100
ROUNDS = 150


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    with RealServer(request.param) as server:
        yield server


def agent_on(url: str) -> Agent:
    """A loop with some events per round."""
    agent = Agent(cache=RedisCache(url), name="f43", max_total_iterations=10 * ROUNDS, lease_seconds=2)

    @agent.node
    async def work(cache) -> int:
        await cache.increment("rounds")
        return 1

    @agent.decide(after="work", to=["work", "report"])
    async def enough(cache) -> str:
        return "report" if await cache.get("rounds") >= ROUNDS else "work"

    @agent.node(start=False)
    async def report() -> str:
        return "done"

    return agent


def check(server: RealServer, run_id: str) -> None:
    with looking_at(server.url) as client:
        check_over(client, run_id, ["work", "enough", "report"], [], status="complete")


def test_run_goes_on_although_its_reader_does_not(server: RealServer, tmp_path: Path) -> None:
    """A reader of its own, that stops in the middle of a page, has its connections dropped, and is gone."""

    async def read_a_little() -> None:
        async with RedisStore(parse_address(server.url)) as store:
            while not await store.events(RunId(tmp_path.name), block_ms=100):
                pass
            with looking_at(server.url) as client:
                for connection in client.client_list():
                    if str(connection["name"]).startswith("graphflow:events"):
                        client.client_kill_filter(_id=connection["id"])

    async def main() -> None:
        agent = agent_on(server.url)
        driving = asyncio.create_task(agent.run_task(task(), run_id=tmp_path.name))
        await asyncio.gather(*(read_a_little() for _ in range(5)))
        assert (await driving)["rounds"] == ROUNDS

    run(main())
    check(server, tmp_path.name)


def test_reader_that_lags_is_told_of_the_gap_and_sees_the_rest(
    server: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_run, "EVENTS_KEPT", KEPT)

    async def main() -> list[object]:
        seen = []
        async for event in agent_on(server.url).stream(task(), run_id=tmp_path.name):
            seen.append(event)
            if isinstance(event, RunStarted):
                # It sleeps until the run is over and its first events are gone.
                await asyncio.to_thread(wait_over, server, tmp_path.name)
        return seen

    seen = run(main())

    assert isinstance(seen[0], RunStarted)
    assert isinstance(seen[-1], RunFinished)
    gaps = [place for place, event in enumerate(seen) if isinstance(event, EventsTrimmed)]
    assert len(gaps) == 1, "one gap, told once"
    after = seen[gaps[0] + 1 :]
    assert len(after) >= KEPT
    revisions = [event.revision for event in seen]
    assert revisions == sorted(revisions)
    assert seen[gaps[0]].revision == after[0].revision > seen[gaps[0] - 1].revision + 1


def wait_over(server: RealServer, run_id: str) -> None:
    with looking_at(server.url) as client:
        wait_until(lambda: client.hget(f"gf:run:{{{run_id}}}", "status") == "complete", timeout_seconds=30)


def test_reader_that_comes_late_is_told_that_the_beginning_is_missing(
    server: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(agent_on(server.url).run_task(task(), run_id=f"{tmp_path.name}-whole"))
    monkeypatch.setattr(held_run, "EVENTS_KEPT", KEPT)
    run(agent_on(server.url).run_task(task(), run_id=f"{tmp_path.name}-cut"))

    async def first_of(run_id: str) -> object:
        async with RedisStore(parse_address(server.url)) as store:
            return (await store.events(RunId(run_id)))[0][1]

    assert isinstance(run(first_of(f"{tmp_path.name}-whole")), RunStarted)
    assert isinstance(run(first_of(f"{tmp_path.name}-cut")), EventsTrimmed)


def test_pages_hold_every_event_once_when_nothing_was_cut(server: RealServer, tmp_path: Path) -> None:
    run(agent_on(server.url).run_task(task(), run_id=tmp_path.name))

    async def all_events() -> list[str]:
        found: list[str] = []
        async with RedisStore(parse_address(server.url)) as store:
            after = "0"
            while page := await store.events(RunId(tmp_path.name), after):
                assert len(page) <= 501
                assert not [event for _, event in page if isinstance(event, EventsTrimmed)]
                found += [entry for entry, _ in page]
                after = found[-1]
        return found

    found = run(all_events())

    with looking_at(server.url) as client:
        stored = [entry for entry, _ in client.xrange(f"gf:run:{{{tmp_path.name}}}:events")]
    assert len(stored) > 501, "more than a page"
    assert found == stored


def test_run_that_was_cancelled_before_its_start_has_no_gap(
    server: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object, **__: object) -> None:
        raise KeyError("the process died when it had stored the run")

    async def main() -> list[str]:
        agent = agent_on(server.url)
        with monkeypatch.context() as dying:
            dying.setattr("graphflow.entrance.entering.finish_run", die)
            with pytest.raises(KeyError):
                await agent.run_task(task(), run_id=tmp_path.name)
        assert await agent.cancel(tmp_path.name) == "cancelled"
        async with RedisStore(parse_address(server.url)) as store:
            return [event.kind for _, event in await store.events(RunId(tmp_path.name))]

    assert run(main()) == ["RunFinished"]


def test_reader_of_results_gets_each_once_although_connections_are_dropped(
    server: RealServer, tmp_path: Path
) -> None:
    """One reader loses its connections, as the driver does, and goes on; another one stops and is not waited for."""
    items = 300

    async def main() -> tuple[list[int], RunStatus]:
        agent, begun, gate = (
            Agent(cache=RedisCache(server.url), name="f43"),
            asyncio.Event(),
            asyncio.Semaphore(0),
        )

        @agent.node(map_over="items")
        async def double(item: int) -> int:
            begun.set()
            await gate.acquire()
            return 2 * item

        state = {"items": list(range(items))}
        driving = asyncio.create_task(agent.run_task(task(), state=state, run_id=tmp_path.name))
        await begun.wait()
        readers = [Agent(cache=RedisCache(server.url)) for _ in range(2)]
        stuck, results = (each.results(tmp_path.name, "double", as_completed=True) for each in readers)
        let_go(gate)
        await anext(stuck)
        seen = []
        async for index, value in results:
            assert value == 2 * index
            seen.append(index)
            if len(seen) % 50 == 0:
                drop_connections(server)
                let_go(gate)
        outcome = await driving
        await stuck.aclose()  # type: ignore[attr-defined]
        return seen, outcome.status

    seen, status = run(main())

    assert status is RunStatus.COMPLETE
    assert sorted(seen) == list(range(items))


def let_go(gate: asyncio.Semaphore) -> None:
    """Fifty more items end."""
    for _ in range(50):
        gate.release()


def drop_connections(server: RealServer) -> None:
    with looking_at(server.url) as client:
        ids = [each["id"] for each in client.client_list() if str(each["name"]).startswith("graphflow:run:")]
        assert ids, "the readers should be connected"
        for connection in ids:
            client.client_kill_filter(_id=connection)
