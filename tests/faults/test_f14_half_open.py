"""F14: connections that stay open and answer nothing. It is noticed within the time for a reply; the lease is kept as long
as its own connection lives, and what comes late is refused if it was not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from graphflow.server import connection
from tests.faults.graphs import agent_of, answer_of, executions, task_of
from tests.faults.harness import looking_at, run_field, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.faults.proxy import ChaosProxy
from tests.helpers import SOON_SECONDS, run
from tests.servers import RealServer

REPLY_SECONDS = 0.5


@pytest.fixture(autouse=True)
def soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (connection.open_client, connection.open_sync_client):
        monkeypatch.setitem(function.__kwdefaults__, "reply_seconds", REPLY_SECONDS)
    monkeypatch.setattr(connection, "CONNECT_SECONDS", REPLY_SECONDS)


class Scene:
    def __init__(self, server: RealServer, folder: Path, lease_seconds: float) -> None:
        self.server = server
        self.run_id = folder.name
        self.log = folder / "bodies.log"
        self.lease_seconds = lease_seconds

    async def drive(self, hole: set[str], seconds: float, thief: bool = False) -> float:
        """Drive a map whose connections of these roles are dead for a while; seconds until it was over after that."""
        async with ChaosProxy(str(self.server.socket_path)) as proxy:
            agent = agent_of("map", proxy.url, self.log, lease_seconds=self.lease_seconds, delay=0.1)
            driving = asyncio.create_task(agent.run_task(task_of("map"), run_id=self.run_id))
            await asyncio.to_thread(wait_bodies_begun, self.log, 5)
            proxy.holes |= hole
            await asyncio.sleep(seconds)
            if thief:
                other = agent_of("map", self.server.url, self.log, lease_seconds=self.lease_seconds)
                assert (await other.resume(self.run_id))["combine"] == answer_of("map")
            proxy.holes.clear()
            ended = time.monotonic()
            outcome = await driving
            assert (outcome.status, outcome["combine"]) == ("complete", answer_of("map"))
            with looking_at(self.server.url) as client:
                check_run(client, self.run_id, "map")
            return time.monotonic() - ended

    @property
    def leases(self) -> str | None:
        with looking_at(self.server.url) as client:
            return run_field(client, self.run_id, "leases")


def test_dead_command_connection_is_given_up_in_time_and_the_lease_is_kept(
    redis_server: RealServer, tmp_path: Path
) -> None:
    scene = Scene(redis_server, tmp_path, lease_seconds=1.0)

    took = run(scene.drive({"run"}, 2.5))

    assert took < SOON_SECONDS
    assert scene.leases == "1", "the heartbeat has kept it"
    assert set(executions(scene.log).values()) == {1}


def test_dead_heartbeat_connection_for_a_part_of_the_lease_does_no_harm(
    redis_server: RealServer, tmp_path: Path
) -> None:
    scene = Scene(redis_server, tmp_path, lease_seconds=6.0)

    run(scene.drive({"lease"}, 1.0))

    assert scene.leases == "1"
    assert set(executions(scene.log).values()) == {1}


def test_run_whose_heartbeat_and_commands_are_dead_is_taken_over_and_what_comes_late_is_refused(
    redis_server: RealServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a thief with a way of its own, who runs in the same process: its pid is alive, so only the lease decides."""
    scene = Scene(redis_server, tmp_path, lease_seconds=0.8)

    run(scene.drive({"run", "lease"}, 0.1, thief=True))

    assert scene.leases == "2"
    assert "no longer drives" in caplog.text
    assert max(executions(scene.log).values()) <= 2
