"""F23: error replies of a server that is there. Those that pass are waited for, those that tell of the wrong server or disk
pause the run, those that no waiting helps against end the driving at once; none of them uses up a module's attempts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from graphflow import Agent, RedisCache
from graphflow.errors import AccessDenied, StoreError, StoreFull, StoreUnreachable, WritesRefused
from graphflow.result import RunResult
from graphflow.store.redis_store import RedisStore
from tests.acceptance.support import task
from tests.faults.harness import looking_at, run_field
from tests.faults.invariants import check_over
from tests.faults.proxy import ChaosProxy, calls_of
from tests.helpers import SOON_SECONDS, run
from tests.servers import RealServer

PASSING = {
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "READONLY": "READONLY You can't write against a read only replica.",
    "MISCONF": "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "NOREPLICAS": "NOREPLICAS Not enough good replicas to write.",
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
}
FATAL = {
    "NOPERM": "NOPERM this user has no permissions to run the 'evalsha' command",
    "NOAUTH": "NOAUTH Authentication required.",
}
REMEDIES = {"NOPERM": r"give the user the right \+evalsha", "NOAUTH": "correct the user and password"}
SCRIPTS = ("create", "acquire", "commit", "renew", "release")
CLASSES = {
    "LOADING": StoreUnreachable,
    "BUSY": StoreUnreachable,
    "READONLY": WritesRefused,
    "MISCONF": WritesRefused,
    "NOREPLICAS": WritesRefused,
    "OOM": StoreFull,
}


def _pairs() -> Iterator[ParameterSet]:
    """Every error at every script; each error at two of them in the quick tests."""
    for number, word in enumerate(PASSING):
        for place, script in enumerate(SCRIPTS):
            is_quick = script == "commit" or place == number % len(SCRIPTS)
            yield pytest.param(word, script, marks=() if is_quick else pytest.mark.long)


class ImpatientCache(RedisCache):
    def store(self) -> RedisStore:
        return RedisStore(self.address, patience_seconds=0.3)


class Scene:
    """A chain of two nodes, each of which may be tried once."""

    def __init__(self, server: RealServer, folder: Path, cache: type[RedisCache] = RedisCache) -> None:
        self.server = server
        self.run_id = folder.name
        self.calls: list[str] = []
        self._cache = cache

    def agent(self, url: str) -> Agent:
        agent = Agent(cache=self._cache(url), name="f23", lease_seconds=0.6)

        @agent.node(max_retries=1)
        async def first() -> int:
            self.calls.append("first")
            return 1

        @agent.node(max_retries=1)
        async def second(first: int) -> int:
            self.calls.append("second")
            # Long enough for the lease to be renewed.
            await asyncio.sleep(0.3)
            return first + 1

        return agent

    async def drive(self, error: str, script: str, *, times: int = 3) -> RunResult:
        async with ChaosProxy(str(self.server.socket_path)) as proxy:
            # The first commit starts the run.
            first = 2 if script == "commit" else 1
            proxy.answer(calls_of(script), error, turns=range(first, first + times))
            outcome = await self.agent(proxy.url).run_task(task(), run_id=self.run_id)
            assert proxy.answered, "the error was met"
            return outcome


@pytest.mark.parametrize(("word", "script"), [*_pairs()])
def test_error_that_passes_is_waited_for(
    word: str, script: str, redis_server: RealServer, tmp_path: Path
) -> None:
    scene = Scene(redis_server, tmp_path)

    outcome = run(scene.drive(PASSING[word], script, times=1))

    assert (outcome.status, outcome["second"]) == ("complete", 2)
    assert scene.calls == ["first", "second"], "no module has paid for it"
    assert [outcome.node_results[name].attempts for name in ("first", "second")] == [1, 1]
    with looking_at(redis_server.url) as client:
        check_over(client, scene.run_id, ["first", "second"], [], status="complete")


@pytest.mark.parametrize("word", PASSING)
def test_error_that_does_not_pass_ends_the_driving_when_patience_does_and_the_run_can_go_on(
    word: str, redis_server: RealServer, tmp_path: Path
) -> None:
    scene = Scene(redis_server, tmp_path, ImpatientCache)

    with pytest.raises(CLASSES[word]) as found:
        run(scene.drive(PASSING[word], "commit", times=1000))

    assert "redis://127.0.0.1" in str(found.value)
    outcome = run(scene.agent(redis_server.url).resume(scene.run_id))
    assert (outcome.status, outcome["second"]) == ("complete", 2)
    assert [outcome.node_results[name].attempts for name in ("first", "second")] == [1, 1]


@pytest.mark.parametrize("word", FATAL)
def test_denial_ends_the_driving_at_once_and_the_run_can_go_on(
    word: str, redis_server: RealServer, tmp_path: Path
) -> None:
    scene = Scene(redis_server, tmp_path)
    began = time.monotonic()

    with pytest.raises(AccessDenied, match=REMEDIES[word]):
        run(scene.drive(FATAL[word], "commit"))

    assert time.monotonic() - began < SOON_SECONDS
    outcome = run(scene.agent(redis_server.url).resume(scene.run_id))
    assert (outcome.status, outcome["second"]) == ("complete", 2)


def test_error_that_nobody_knows_is_told_as_the_server_says_it(
    redis_server: RealServer, tmp_path: Path
) -> None:
    scene = Scene(redis_server, tmp_path)

    with pytest.raises(StoreError, match="WEIRD the moon is full"):
        run(scene.drive("WEIRD the moon is full", "commit"))

    with looking_at(redis_server.url) as client:
        assert run_field(client, scene.run_id, "status") in ("waiting", "executing")
