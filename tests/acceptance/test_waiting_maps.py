"""Maps whose items wait for signals: the run is suspended when nothing else is left, and not before."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graphflow import Agent, RunInterrupted, RunResult, RunStatus
from graphflow.rules import pages
from tests import programs
from tests.acceptance.support import agent_on, client, task, until
from tests.helpers import run

#: Seconds after which a run that neither goes on nor is suspended fails its test.
SECONDS = 30


def waiting_map(url: str, count: int, **settings: Any) -> Agent:
    """Each of so many elements of a generator waits for a signal that has its name."""
    agent = agent_on(url, **settings)

    async def elements() -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @agent.node(map_over=elements)
    async def asks(item: int, cache: Any) -> Any:
        return [item, await cache.wait_for_signal(f"go-{item}")]

    @agent.node
    async def after(asks: list[Any]) -> int:
        return len(asks)

    return agent


async def driven(agent: Agent, run_id: str) -> RunResult:
    return await asyncio.wait_for(agent.run_task(task(), run_id=run_id), SECONDS)


async def answer(agent: Agent, run_id: str, items: Iterable[int]) -> RunResult:
    for item in items:
        await agent.signal(run_id, f"go-{item}", item)
    return await asyncio.wait_for(agent.resume(run_id), SECONDS)


def stored(url: str, run_id: str, node: str = "asks") -> tuple[int, int, bool]:
    """Items that wait, items of the map, and whether its source is open."""
    with client(url) as connection:
        key = f"gf:run:{{{run_id}}}"
        counters = connection.hgetall(f"{key}:map:{node}")
        return connection.hlen(f"{key}:waits"), int(counters["total"]), "source" in counters


def test_run_goes_on_with_the_last_page_of_a_generator_though_all_its_items_wait(redis_url: str) -> None:
    agent = agent_on(redis_url)
    waits = asyncio.Event()

    async def elements() -> AsyncIterator[int]:
        yield 0
        await waits.wait()
        yield 1

    @agent.node(map_over=elements)
    async def asks(item: int, cache: Any) -> int:
        await cache.wait_for_signal("go")
        return item

    async def main() -> None:
        begun: list[str] = []
        async with asyncio.timeout(SECONDS):
            async for event in agent.stream(task(), run_id="last-page"):
                begun.append(event.kind)
                if event.kind == "SignalAwaited":
                    waits.set()
        assert begun.count("SignalAwaited") == 2, "the item of the last page has begun to wait, too"
        assert begun.count("RunSuspended") == 1
        assert stored(redis_url, "last-page") == (2, 2, False)
        await agent.signal("last-page", "go")
        assert (await agent.resume("last-page")).status is RunStatus.SUSPENDED
        await agent.signal("last-page", "go")
        assert (await agent.resume("last-page"))["asks"] == [0, 1]

    run(main())


def test_run_goes_on_with_the_last_result_of_a_pipelined_map_though_all_else_waits(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(map_over="numbers")
    async def first(item: int, cache: Any) -> int:
        if item == 1:
            while not await cache.get("asked", False):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return item

    @agent.node(map_over="first", pipelined=True)
    async def asks(item: int, cache: Any) -> int:
        if item == 0:
            await cache.set("asked", True, immediate=True)
        await cache.wait_for_signal(f"go-{item}")
        return item

    async def main() -> None:
        outcome = await asyncio.wait_for(
            agent.run_task(task(), state={"numbers": [0, 1]}, run_id="handed-on"), SECONDS
        )
        assert outcome.status is RunStatus.SUSPENDED
        assert stored(redis_url, "handed-on") == (2, 2, False)
        assert (await answer(agent, "handed-on", range(2)))["asks"] == [0, 1]

    run(main())


def test_run_is_suspended_by_a_pipelined_map_that_opens_when_all_else_waits(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(map_over="numbers")
    async def asks(item: int, cache: Any) -> int:
        return await cache.wait_for_signal(f"go-{item}")

    @agent.node(map_over="asks", pipelined=True)
    async def follows(item: int) -> int:
        return item

    async def main() -> None:
        outcome = await asyncio.wait_for(
            agent.run_task(task(), state={"numbers": [0]}, run_id="opens-late"), SECONDS
        )
        assert outcome.status is RunStatus.SUSPENDED
        assert (await answer(agent, "opens-late", range(1)))["follows"] == [0]

    run(main())


def test_run_whose_window_is_full_of_waiting_items_is_suspended_and_goes_on_with_its_source(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "WINDOW_ITEMS", 20)
    monkeypatch.setattr("graphflow.engine.maps.feed.AHEAD_ITEMS", 7)
    agent = waiting_map(redis_url, 100, max_concurrent_tasks=5)

    async def main() -> None:
        outcome = await driven(agent, "full")
        assert outcome.status is RunStatus.SUSPENDED
        waiting, total, is_open = stored(redis_url, "full")
        assert 20 <= waiting == total < 27
        assert is_open
        assert (await driven(agent, "full")).status is RunStatus.SUSPENDED, "without news, and at once"
        assert stored(redis_url, "full") == (waiting, total, True)
        for item in range(100):
            outcome = await answer(agent, "full", range(item, item + 1))
            waiting, total, is_open = stored(redis_url, "full")
            assert waiting < 27, "what has been answered makes room, and no more"
            assert total == 100 or is_open
        assert outcome.status is RunStatus.COMPLETE, outcome.error
        assert outcome["asks"] == [[item, item] for item in range(100)]

    run(main())


def test_suspended_source_goes_on_in_another_process(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import asyncio, sys

            from graphflow.rules import pages
            from tests.acceptance.test_waiting_maps import answer, driven, waiting_map

            pages.WINDOW_ITEMS = 10
            agent = waiting_map({redis_url!r}, 25, max_concurrent_tasks=5)


            async def main():
                if len(sys.argv) == 1:
                    outcome = await driven(agent, "elsewhere")
                else:
                    outcome = await answer(agent, "elsewhere", range(int(sys.argv[1]), int(sys.argv[2])))
                print(outcome.status.value, outcome.get("after"))


            asyncio.run(main())
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", str(programs.ROOT))

    def printed(*words: str) -> str:
        done = programs.run([str(program), *words], timeout=2 * SECONDS)
        assert done.returncode == 0, done.stderr
        return str(done.stdout).strip()

    assert printed() == "suspended None"
    assert stored(redis_url, "elsewhere")[0] >= 10
    assert printed("0", "5") == "suspended None"
    assert printed("5", "24") == "suspended None"
    assert stored(redis_url, "elsewhere") == (1, 25, False)
    assert printed("24", "25") == "complete 25"


def test_window_of_a_map_further_down_holds_the_generator_and_suspends_the_run(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator without an end: its items are quick, and so are the next ones, but not those of the third map."""
    monkeypatch.setattr(pages, "WINDOW_ITEMS", 20)
    monkeypatch.setattr("graphflow.engine.maps.feed.AHEAD_ITEMS", 7)
    agent = agent_on(redis_url, max_concurrent_tasks=5)

    def endless() -> Iterator[int]:
        number = 0
        while number < 10_000:
            yield number
            number += 1

    @agent.node(map_over=endless)
    async def first(item: int) -> int:
        return item

    @agent.node(map_over="first", pipelined=True)
    async def second(item: int) -> int:
        return item

    @agent.node(map_over="second", pipelined=True)
    async def asks(item: int, cache: Any) -> int:
        return await cache.wait_for_signal(f"go-{item}")

    async def main() -> None:
        outcome = await driven(agent, "far")
        assert outcome.status is RunStatus.SUSPENDED
        waiting, total, is_open = stored(redis_url, "far")
        assert 20 <= waiting == total < 20 + 3 * 20
        assert is_open
        outcome = await answer(agent, "far", range(waiting))
        assert outcome.status is RunStatus.SUSPENDED
        assert stored(redis_url, "far")[1] > total, "it goes on with the source"

    run(main())


def test_generator_fills_batches_larger_than_the_window_of_a_map_that_follows(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "WINDOW_ITEMS", 20)
    monkeypatch.setattr("graphflow.engine.maps.feed.AHEAD_ITEMS", 7)
    agent = agent_on(redis_url, max_concurrent_tasks=2)

    def elements() -> Iterator[int]:
        yield from range(300)

    @agent.node(map_over=elements)
    async def first(item: int) -> int:
        return item

    @agent.node(map_over="first", pipelined=True, batch_size=100)
    async def second(item: list[int]) -> list[int]:
        return [len(item)] * len(item)

    assert run(driven(agent, "batches"))["second"] == [100] * 300


def test_pipelined_map_that_began_after_its_source_goes_on_where_it_was_interrupted(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "WINDOW_ITEMS", 20)
    monkeypatch.setattr("graphflow.engine.maps.feed.AHEAD_ITEMS", 7)
    agent = agent_on(redis_url, max_concurrent_tasks=10)
    goes_on, begun = asyncio.Event(), []

    @agent.node(map_over="numbers")
    async def first(item: int) -> int:
        return item

    @agent.node
    async def later(first: list[int]) -> None: ...

    @agent.node(map_over="first", pipelined=True, dependencies=["later"])
    async def second(item: int) -> int:
        begun.append(item)
        if len(begun) > 5:
            await goes_on.wait()
        return item

    async def main() -> None:
        state = {"numbers": list(range(100))}
        running = asyncio.create_task(agent.run_task(task(), state=state, run_id="afterwards"))
        await until(lambda: len(begun) > 5)
        agent.drain(grace_seconds=0.01)
        with pytest.raises(RunInterrupted):
            await running
        assert stored(redis_url, "afterwards", "second")[2], "its source is not at its end"
        goes_on.set()
        outcome = await asyncio.wait_for(agent.resume("afterwards"), SECONDS)
        assert outcome["second"] == list(range(100))

    run(main())


def test_map_over_a_source_that_waits_begins_with_its_answer(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def listed(cache: Any) -> list[int]:
        return await cache.wait_for_signal("list")

    @agent.node(map_over="listed")
    async def asks(item: int, cache: Any) -> int:
        return await cache.wait_for_signal(f"go-{item}")

    async def main() -> None:
        assert (await driven(agent, "source-waits")).status is RunStatus.SUSPENDED
        await agent.signal("source-waits", "list", [0, 1, 2])
        assert (await agent.resume("source-waits")).status is RunStatus.SUSPENDED
        assert stored(redis_url, "source-waits") == (3, 3, False)
        assert (await answer(agent, "source-waits", [2])).status is RunStatus.SUSPENDED
        assert (await answer(agent, "source-waits", [0, 1]))["asks"] == [0, 1, 2]

    run(main())


def test_batch_that_would_wait_for_a_signal_fails_and_says_what_to_do(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(map_over="numbers", batch_size=2, max_retries=1)
    async def asks(item: list[int], cache: Any) -> list[int]:
        await cache.wait_for_signal("go")
        return item

    outcome = run(
        asyncio.wait_for(agent.run_task(task(), state={"numbers": [0, 1, 2]}, run_id="batch-waits"), SECONDS)
    )

    assert outcome.status is RunStatus.FAILED
    assert "drop batch_size, so that each item waits for itself" in str(outcome.failures[0].error)
