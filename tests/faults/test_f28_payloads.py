"""F28: payloads that are too large are refused by name before anything of them is written; what is within the limits passes,
and no call keeps the server for long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from graphflow import Agent, RedisCache, Task
from graphflow.errors import TransactionTooLarge, ValueTooLarge
from graphflow.settings import MAX_VALUE_BYTES
from tests.acceptance.support import agent_on, task
from tests.faults.harness import looking_at
from tests.faults.invariants import check_over
from tests.helpers import run
from tests.servers import RealServer

MIB = 1024 * 1024
#: What takes a server about 100 milliseconds; one call may take some more than what that takes on this machine, now.
STALL = "local sum = 0 for turn = 1, 10000000 do sum = sum + turn end return sum"
SLACK = 5


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    """Of this file's own: its slow log is of no other's commands."""
    with RealServer(options={"slowlog-log-slower-than": "100000", "slowlog-max-len": "10000"}) as server:
        yield server


@contextmanager
def no_stall(server: RealServer) -> Iterator[None]:
    with looking_at(server.url) as client:
        stall = max(_stall(client), _stall(client))
        client.slowlog_reset()
        yield
        calls = [(entry["duration"], entry["command"][:40]) for entry in client.slowlog_get(10_000)]
        stall = max(stall, _stall(client), _stall(client))
        slow = [call for call in calls if call[0] > SLACK * stall]
        assert not slow, (stall, slow)


def _stall(client: redis.Redis) -> int:
    """How many microseconds of the server the calibrating script takes, for the server is not alone on this machine."""

    def used() -> int:
        return int(client.info("commandstats").get("cmdstat_eval", {"usec": 0})["usec"])

    before = used()
    client.eval(STALL, 0)
    return used() - before


def text_of(mebibytes: int) -> str:
    # With its quotes one MiB of text is a little more than that.
    return "x" * (mebibytes * MIB - 2)


@pytest.mark.parametrize("mebibytes", [1, 8])
def test_values_up_to_the_limit_pass(mebibytes: int, server: RealServer, tmp_path: Path) -> None:
    text = text_of(mebibytes)
    agent = agent_on(server.url)

    @agent.node
    def echo(given: str) -> str:
        return given

    @agent.node
    async def keep(echo: str, cache: Any) -> int:
        await cache.set("kept", echo)
        return len(await cache.get("kept"))

    with no_stall(server):
        outcome = agent.run_task_sync(task(), state={"given": text}, run_id=tmp_path.name)

    assert (outcome["keep"], outcome["echo"] == text, outcome["kept"] == text) == (len(text), True, True)


@pytest.mark.parametrize("where", ["state", "task"])
def test_input_that_is_too_large_is_refused_before_the_run_is_stored(
    where: str, server: RealServer, tmp_path: Path
) -> None:
    text = text_of(64)
    agent = agent_on(server.url)

    @agent.node
    def nothing() -> None: ...

    given = Task(type="large", params={"text": text} if where == "task" else {})
    state = {"given": text} if where == "state" else None
    with no_stall(server), pytest.raises(ValueTooLarge, match="max_value_bytes"):
        agent.run_task_sync(given, state=state, run_id=tmp_path.name)

    with looking_at(server.url) as client:
        assert list(client.scan_iter(match=f"gf:run:{{{tmp_path.name}}}*")) == []
        assert client.zscore("gf:runs:open", tmp_path.name) is None


@pytest.mark.parametrize("way", ["result", "set", "append", "step", "message", "item"])
def test_what_a_module_makes_too_large_fails_it_by_name_and_none_of_it_is_stored(
    way: str, server: RealServer, tmp_path: Path
) -> None:
    text = text_of(64)
    agent = agent_on(server.url)

    if way == "item":

        @agent.node(map_over="numbers")
        async def large(number: int) -> str:
            return text if number == 1 else ""
    else:

        @agent.node
        async def large(cache: Any) -> str:
            if way == "set":
                await cache.set("key", text)
            elif way == "append":
                await cache.append("key", text)
            elif way == "step":
                await cache.step("name", lambda: text, key="key")
            elif way == "message":
                await cache.publish_to_mailbox("box", text)
            return text if way == "result" else "short"

    with no_stall(server):
        outcome = agent.run_task_sync(task(), state={"numbers": [0, 1]}, run_id=tmp_path.name)

    failure = outcome.failures[0]
    assert failure.error.startswith("ValueTooLarge"), failure.error
    assert (failure.node, failure.attempts) == ("large", 1), "another attempt would not help"
    status = "partial" if way == "item" else "failed"
    with looking_at(server.url) as client:
        keys = list(client.scan_iter(match=f"gf:run:{{{tmp_path.name}}}*"))
        assert sum(client.memory_usage(key) for key in keys) < MIB
        check_over(client, tmp_path.name, ["large"], ["large"] if way == "item" else [], status=status)


def test_one_module_run_that_writes_too_much_in_all_fails_by_name(server: RealServer, tmp_path: Path) -> None:
    agent = agent_on(server.url)

    @agent.node
    async def large(cache: Any) -> None:
        for number in range(6):
            await cache.set(f"key{number}", text_of(7))

    outcome = agent.run_task_sync(task(), run_id=tmp_path.name)

    assert outcome.failures[0].error.startswith(TransactionTooLarge.__name__)
    assert outcome.failures[0].attempts == 1


def test_a_hundred_thousand_items_are_mapped(server: RealServer, tmp_path: Path) -> None:
    items = 100_000
    agent = Agent(cache=RedisCache(server.url), name="f28", lease_seconds=2)

    @agent.node
    def numbers() -> list[int]:
        return list(range(items))

    @agent.node(map_over="numbers")
    async def double(number: int) -> int:
        return number * 2

    @agent.node
    def total(double: list[int]) -> int:
        return sum(double)

    async def main() -> None:
        async with asyncio.timeout(60):
            outcome = await agent.run_task(task(), run_id=tmp_path.name)
        assert outcome["total"] == items * (items - 1)

    with no_stall(server):
        run(main())

    with looking_at(server.url) as client:
        assert client.hget(f"gf:run:{{{tmp_path.name}}}", "leases") == "1"
        check_over(client, tmp_path.name, ["numbers", "double", "total"], ["double"], status="complete")
        client.flushall()


@pytest.mark.parametrize("results", [100, pytest.param(500, marks=pytest.mark.long)])
def test_results_of_a_mebibyte_each_are_gathered(results: int, server: RealServer, tmp_path: Path) -> None:
    agent = Agent(cache=RedisCache(server.url), name="f28", max_concurrent_tasks=20, lease_seconds=2)

    @agent.node(map_over="numbers")
    async def large(number: int) -> str:
        return f"{number:04}" * (MIB // 4)

    @agent.node
    def heads(large: list[str]) -> list[int]:
        return [int(text[:4]) for text in large]

    with looking_at(server.url) as client:
        client.config_resetstat()
    with no_stall(server):
        outcome = agent.run_task_sync(task(), state={"numbers": list(range(results))}, run_id=tmp_path.name)

    assert outcome["heads"] == list(range(results))
    with looking_at(server.url) as client:
        assert client.info("commandstats")["cmdstat_hmget"]["calls"] > results / 5, "some MiB per reply"
        check_over(client, tmp_path.name, ["large", "heads"], ["large"], status="complete")
        client.flushall()


def test_limit_is_what_the_settings_say() -> None:
    assert MAX_VALUE_BYTES == 8 * MIB
