"""F20: settings of a server under which runs are not safe are told of at start, or refused, as one chooses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from graphflow import Agent, RedisCache, Task
from graphflow.errors import SchemaTooNew, UnsafeStore
from graphflow.store import checks
from graphflow.store.checks import Server, risks_of
from tests.contract.driving import raw
from tests.servers import ENGINES, Engine, RealServer

TASK = Task(type="numbers", objective="double them")
GOOD = Server("Redis", "7.2.4", appendonly="yes", appendfsync="everysec", save="", policy="noeviction")


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(checks, "_told", set())


@pytest.fixture(params=ENGINES)
def lossy(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    """A server that keeps nothing and drops what it likes."""
    engine: Engine = request.param
    options = {"appendonly": "no", "maxmemory-policy": "allkeys-lru"}
    with RealServer(engine, options=options) as server:
        yield server


def agent_on(url: str, **settings) -> Agent:
    agent = Agent(cache=RedisCache(url, **settings))
    agent.node(one)
    return agent


def one() -> int:
    return 1


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_risks_are_told_once_per_process_and_the_run_goes_on(
    lossy: RealServer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert agent_on(lossy.url).run_task_sync(TASK)["one"] == 1

    told = warnings_in(caplog)
    assert len(told) == 2, told
    assert "append-only file is off: nothing survives a restart; set appendonly to yes" in told[0]
    assert "maxmemory-policy is allkeys-lru: it drops parts of runs" in told[1]


def test_server_is_refused_each_time_until_it_is_set_right(lossy: RealServer) -> None:
    agent = agent_on(lossy.url, on_risk="refuse")
    for _ in range(2):
        with pytest.raises(UnsafeStore, match="allkeys-lru") as error:
            agent.run_task_sync(TASK)
    assert len(error.value.risks) == 2

    asyncio.run(_set_right(lossy.url))

    assert agent.run_task_sync(TASK)["one"] == 1


async def _set_right(url: str) -> None:
    client = await raw(url)
    await client.config_set("appendonly", "yes")
    await client.config_set("maxmemory-policy", "noeviction")
    await client.aclose()


def test_risks_that_are_accepted_are_not_told(lossy: RealServer, caplog: pytest.LogCaptureFixture) -> None:
    assert agent_on(lossy.url, on_risk="ignore").run_task_sync(TASK)["one"] == 1

    assert warnings_in(caplog) == []


def test_server_that_keeps_runs_is_quiet(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert agent_on(redis_url, on_risk="refuse").run_task_sync(TASK)["one"] == 1

    assert warnings_in(caplog) == []


def test_store_in_memory_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    assert agent_on("memory://quiet", on_risk="refuse").run_task_sync(TASK)["one"] == 1

    assert warnings_in(caplog) == []


def test_store_of_a_newer_graphflow_is_refused_whatever_is_accepted() -> None:
    with RealServer("current") as server:
        asyncio.run(_write_schema(server.url))
        with pytest.raises(SchemaTooNew):
            agent_on(server.url, on_risk="ignore").run_task_sync(TASK)


async def _write_schema(url: str) -> None:
    client = await raw(url)
    await client.hset("gf:meta", "schema", "99")
    await client.aclose()


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({}, []),
        ({"policy": "volatile-ttl"}, ["eviction"]),
        ({"policy": "allkeys-random"}, ["eviction"]),
        ({"appendonly": "no"}, ["persistence"]),
        ({"appendonly": "no", "save": "3600 1"}, ["persistence"]),
        ({"version": "6.0.16"}, ["version"]),
        ({"version": "6.2.0"}, []),
        (
            {"version": "5.0.7", "appendonly": "no", "policy": "allkeys-lfu"},
            ["version", "persistence", "eviction"],
        ),
        ({"version": "", "appendonly": "", "save": None, "policy": ""}, []),
    ],
)
def test_settings_that_break_the_promise_are_risks(changed: dict, names: list[str]) -> None:
    assert [risk.name for risk in risks_of(replace(GOOD, **changed))] == names


def test_snapshots_alone_are_said_to_lose_what_came_after_them() -> None:
    [risk] = risks_of(Server(appendonly="no", save="3600 1"))

    assert "a crash loses what came after its last snapshot" in str(risk)
