"""kill -9 between the setting of a key with a ttl and its end: its end is kept, and is neither early nor seen too late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from graphflow import clock
from graphflow.failpoints import ENVIRONMENT_VARIABLE
from tests import programs
from tests.faults.harness import PATIENCE_SECONDS, looking_at
from tests.programs import ROOT
from tests.servers import RealServer

PROGRAM = """
import asyncio, json, os, sys
from graphflow import Agent, RedisCache, Task

url, log, run_id = sys.argv[1:]
agent = Agent(cache=RedisCache(url), name="victim")

@agent.node
async def sets(cache):
    await cache.set("token", "secret", ttl=3600)

@agent.node
async def looks(sets, cache):
    seen = await cache.get("token", "missing")
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{seen}\\n".encode())
    os.close(file)
    await cache.step("call", lambda: None)
    return seen

async def main():
    outcome = await agent.run_task(Task(type="test"), run_id=run_id)
    print(json.dumps([outcome.status, outcome["looks"], "token" in outcome]))

asyncio.run(main())
"""


class Program:
    """The program above, in processes one after another that go on with one run."""

    def __init__(self, server: RealServer, folder: Path) -> None:
        self.server = server
        self.log = folder / "log"
        self.run = f"gf:run:{{expiring-{folder.name}}}"
        self.arguments = [server.url, str(self.log), f"expiring-{folder.name}"]

    def start(self, failpoints: str = "") -> subprocess.CompletedProcess[str]:
        return programs.run(
            ["-c", PROGRAM, *self.arguments],
            cwd=ROOT,
            env=os.environ | {ENVIRONMENT_VARIABLE: failpoints},
            timeout=PATIENCE_SECONDS,
        )

    def dies(self, failpoints: str) -> None:
        ended = self.start(failpoints)
        assert ended.returncode == -signal.SIGKILL, ended.stdout + ended.stderr

    def finishes(self) -> list[Any]:
        ended = self.start()
        assert ended.returncode == 0, ended.stderr
        outcome: list[Any] = json.loads(ended.stdout.splitlines()[-1])
        return outcome

    def pass_time(self) -> None:
        """Let the end of the key be in the past, as if so much time had gone by."""
        with looking_at(self.server.url) as client:
            assert client.hset(f"{self.run}:expiring", "token", int(clock.now()) - 1) == 0

    @property
    def seen(self) -> list[str]:
        return self.log.read_text().split()

    @property
    def events(self) -> list[str]:
        with looking_at(self.server.url) as client:
            return [fields["event"] for _, fields in client.xrange(f"{self.run}:events")]


def test_key_whose_end_came_after_a_kill_is_deleted_before_anything_starts(
    redis_server: RealServer, tmp_path: Path
) -> None:
    program = Program(redis_server, tmp_path)

    program.dies("step.before_send=kill")
    known = len(program.events)
    program.pass_time()

    assert program.finishes() == ["complete", "missing", False]
    assert program.seen == ["secret", "missing"]
    assert program.events[known] == "KeyExpired"
    assert program.events.count("KeyExpired") == 1


def test_key_whose_end_has_not_come_after_a_kill_is_not_deleted_early(
    redis_server: RealServer, tmp_path: Path
) -> None:
    program = Program(redis_server, tmp_path)

    program.dies("step.before_send=kill")
    with looking_at(redis_server.url) as client:
        ends = client.hgetall(f"{program.run}:expiring")

    assert program.finishes() == ["complete", "secret", True]
    assert program.seen == ["secret", "secret"]
    assert "KeyExpired" not in program.events
    with looking_at(redis_server.url) as client:
        assert client.hgetall(f"{program.run}:expiring") == ends
        assert float(ends["token"]) > clock.now()


@pytest.mark.parametrize("place", ["commit.before_send", "commit.after_reply"])
def test_kill_at_the_commit_that_deletes_a_key_leaves_it_deleted_once(
    place: str, redis_server: RealServer, tmp_path: Path
) -> None:
    program = Program(redis_server, tmp_path)

    program.dies("step.before_send=kill")
    program.pass_time()
    program.dies(f"{place}=kill")
    with looking_at(redis_server.url) as client:
        halves = {client.hexists(f"{program.run}:{part}", "token") for part in ("state", "expiring")} | {
            "KeyExpired" not in program.events
        }
    assert halves == {place == "commit.before_send"}, "all of it or nothing"

    assert program.finishes() == ["complete", "missing", False]
    assert program.seen == ["secret", "missing"]
    assert program.events.count("KeyExpired") == 1
