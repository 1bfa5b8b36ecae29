"""F26: a module that blocks the event loop. The heartbeat's thread keeps the run, up to `stall_seconds`; then another process
takes it over and the blocked one commits nothing more. Long before, a warning names the module."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest

from graphflow import Agent, AgentModule, RedisCache
from graphflow.engine.heartbeat import Heartbeat
from graphflow.entrance.session import Session, Sessions
from graphflow.result import RunResult
from graphflow.server.address import parse_address
from graphflow.store.redis_store import RedisStore
from tests.acceptance.support import module_node, task
from tests.faults.harness import looking_at, run_field
from tests.faults.invariants import check_over
from tests.helpers import run, wait_until
from tests.servers import RealServer

LEASE_SECONDS = 0.6


class Blocker(AgentModule):
    name = "blocker"

    async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
        await cache.set("by", self.config.context["name"])
        self.config.context["blocked"].set()
        # It returns when the test says so, or far too late.
        self.config.context["let_go"].wait(20)
        return self.config.context["name"]


class Scene:
    def __init__(self, server: RealServer, run_id: str) -> None:
        self.server = server
        self.run_id = run_id
        self.blocked = threading.Event()
        self.let_go = threading.Event()
        self.outcomes: dict[str, RunResult] = {}

    def agent(self, name: str) -> Agent:
        agent = Agent(cache=RedisCache(self.server.url), name="f26", lease_seconds=LEASE_SECONDS)
        module = Blocker()
        module.config.context = {"name": name, "blocked": self.blocked, "let_go": self.let_go}
        agent.add_node(module_node("held", module))
        return agent

    def drive(self, name: str) -> threading.Thread:
        def main() -> None:
            self.outcomes[name] = self.agent(name).run_task_sync(task(), run_id=self.run_id)

        thread = threading.Thread(target=main)
        thread.start()
        return thread

    @property
    def leases(self) -> str | None:
        with looking_at(self.server.url) as client:
            return run_field(client, self.run_id, "leases")


def test_run_of_a_loop_that_is_blocked_for_several_leases_stays_and_a_warning_names_the_module(
    redis_server: RealServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(redis_server, tmp_path.name)
    first = scene.drive("first")
    assert scene.blocked.wait(10)
    second = scene.drive("second")

    time.sleep(3 * LEASE_SECONDS)
    wait_until(lambda: "has held up the event loop" in caplog.text, what="the warning")
    scene.let_go.set()
    for thread in (first, second):
        thread.join(20)

    warning = next(record for record in caplog.records if "held up" in record.getMessage())
    assert warning.levelno == logging.WARNING
    assert f"run {tmp_path.name}: module 'blocker' of node 'held' has held up" in warning.getMessage()
    assert scene.leases == "1"
    assert [outcome["by"] for outcome in scene.outcomes.values()] == ["first", "first"]
    with looking_at(redis_server.url) as client:
        check_over(client, tmp_path.name, ["held"], [], status="complete")


def test_loop_that_is_blocked_for_longer_than_it_may_loses_its_run_and_commits_nothing_more(
    redis_server: RealServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def start(sessions: Sessions) -> object:
        shared = start_as_ever(sessions)
        store = shared.session.store
        shared.session = Session(store, Heartbeat(store.renewer, stall_seconds=0.3))
        return shared

    start_as_ever = Sessions._start
    monkeypatch.setattr(Sessions, "_start", start)
    scene = Scene(redis_server, tmp_path.name)
    first = scene.drive("first")
    assert scene.blocked.wait(10)
    thief = Scene(redis_server, tmp_path.name)
    thief.let_go.set()

    second = thief.drive("second")
    second.join(20)
    assert thief.outcomes["second"]["by"] == "second"
    scene.let_go.set()
    first.join(20)

    assert scene.outcomes["first"]["by"] == "second", "it returns the result of who took the run over"
    assert "has been blocked" in caplog.text
    assert "no longer drives run" in caplog.text
    assert scene.leases == "2"
    with looking_at(redis_server.url) as client:
        check_over(client, tmp_path.name, ["held"], [], status="complete")


def test_loop_that_turns_is_never_warned_about(
    redis_server: RealServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(redis_server, tmp_path.name)
    agent = Agent(cache=RedisCache(redis_server.url), name="f26", lease_seconds=0.3)

    @agent.node
    def works_in_a_thread() -> str:
        time.sleep(1.5)
        return "done"

    assert agent.run_task_sync(task(), run_id=tmp_path.name)["works_in_a_thread"] == "done"
    assert scene.leases == "1"
    assert "held up" not in caplog.text


def test_lease_thread_has_a_connection_of_its_own(redis_server: RealServer, tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with RedisStore(parse_address(redis_server.url)) as store:
            renewer = store.renewer()
            with looking_at(redis_server.url) as client:
                before = {str(each["name"]) for each in client.client_list()}
                from graphflow.ids import RunId
                from graphflow.store.contract import Lease

                renewer.renew(Lease(RunId(tmp_path.name), "1-none", "", 1.0))
                after = {str(each["name"]) for each in client.client_list()}
            renewer.close()
            return sorted(after - before)

    assert [name.split(":")[1] for name in run(main())] == ["lease"]
