"""What if the engine itself forgets somebody? The run is given up after a while, by name, and can be resumed."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from graphflow import Agent, RunStatus, failpoints
from graphflow.engine.watchdog import Watchdog
from graphflow.errors import RunStalled
from graphflow.state.tickets import Ticket, TicketLine
from graphflow.store.cache import RedisCache
from tests.acceptance.support import client, task, until
from tests.helpers import run

STALL_SECONDS = 0.2


def counting_agent(url: str) -> Agent:
    agent = Agent(cache=RedisCache(url), lease_seconds=0.2, stall_seconds=STALL_SECONDS)

    @agent.node(map_over="items", max_concurrency=3)
    async def add(item: int, cache: Any) -> int:
        seen = await cache.get("count", 0)
        await asyncio.sleep(0.001)
        await cache.set("count", seen + 1)
        return item

    return agent


def test_run_in_which_nobody_is_let_start_is_given_up_by_name_and_can_be_resumed(
    redis_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The whole suite asks for this at once; here it is the clock that finds it.
    failpoints.reset()

    def never(self: TicketLine, ticket: Ticket) -> bool:
        return False

    state = {"items": list(range(12))}
    with monkeypatch.context() as patched:
        patched.setattr(TicketLine, "may_start", never)
        with caplog.at_level(logging.ERROR), pytest.raises(RunStalled) as stalled:
            run(
                asyncio.wait_for(
                    counting_agent(redis_url).run_task(task(), state=state, run_id=tmp_path.name), 60
                )
            )
    with client(redis_url) as connection:
        lease = connection.exists(f"gf:run:{{{tmp_path.name}}}:lease")
        is_open = connection.zscore("gf:runs:open", tmp_path.name)

    outcome = run(counting_agent(redis_url).resume(tmp_path.name))

    assert "of node 'add' for" in str(stalled.value)
    assert any("of node 'add' for" in wait for wait in stalled.value.waits)
    assert f"graphflow resume {tmp_path.name}" in str(stalled.value)
    assert str(stalled.value) in caplog.text
    assert not lease
    assert is_open is not None
    assert outcome.status is RunStatus.COMPLETE
    assert outcome["count"] == 12


def test_run_that_waits_for_longer_than_it_may_stand_still_is_left_alone_if_there_is_a_reason(
    redis_url: str,
) -> None:
    agent = Agent(cache=RedisCache(redis_url), lease_seconds=0.1, stall_seconds=0.1)

    @agent.node
    async def slow() -> str:
        await asyncio.sleep(0.5)
        return "in flight"

    @agent.node(max_retries=2)
    async def patient(cache: Any) -> str:
        try:
            await cache.get_message("never", timeout=0.5)
        except TimeoutError:
            return "a timer was set"
        return "a message?"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["slow"] == "in flight"
    assert outcome["patient"] == "a timer was set"


def test_watchdog_counts_only_time_in_which_there_was_no_turn() -> None:
    async def watch() -> tuple[int, int]:
        calls: list[int] = []
        drive: Any = SimpleNamespace(
            turns=0, loop=asyncio.get_running_loop(), context=contextvars.copy_context()
        )
        watchdog = Watchdog(drive, 0.5, stands_still=lambda: True, on_stall=lambda: calls.append(drive.turns))
        watchdog.start()
        for _ in range(75):
            drive.turns += 1
            await asyncio.sleep(0.01)
        while_it_turned = len(calls)
        await until(lambda: calls)
        watchdog.close()
        return while_it_turned, len(calls)

    while_it_turned, calls = run(watch())

    assert while_it_turned == 0
    assert calls == 1
