"""F37: versions that differ. A store that a newer graphflow wrote is refused, everywhere and before anything is read or
changed; what an older process drives it drives to its end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphflow.errors import SchemaTooNew
from graphflow.store.redis_store import SCHEMA
from tests.faults.graphs import agent_of, answer_of, task_of
from tests.faults.harness import looking_at, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.helpers import run
from tests.servers import RealServer


@pytest.fixture
def server() -> Iterator[RealServer]:
    with RealServer() as server:
        yield server


def test_store_of_a_newer_version_is_refused_and_left_as_it_is(server: RealServer, tmp_path: Path) -> None:
    log = tmp_path / "bodies.log"
    agent = agent_of("map", server.url, log)

    async def start() -> None:
        driving = asyncio.create_task(agent.run_task(task_of("map"), run_id="old"))
        await asyncio.to_thread(wait_bodies_begun, log, 3)
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)

    run(start())
    with looking_at(server.url) as client:
        client.hset("gf:meta", "schema", SCHEMA + 1)
        before = client.execute_command("DEBUG", "DIGEST")

        for refused in (agent.resume("old"), agent.run_task(task_of("map"), run_id="new"), agent.recover()):
            with pytest.raises(SchemaTooNew, match=f"schema {SCHEMA + 1}.*upgrade graphflow"):
                run(refused)

        assert client.execute_command("DEBUG", "DIGEST") == before
        client.hset("gf:meta", "schema", SCHEMA)
        assert run(agent.resume("old"))["combine"] == answer_of("map")
        check_run(client, "old", "map")


def test_command_line_says_what_to_do_about_a_newer_version(server: RealServer) -> None:
    with looking_at(server.url) as client:
        client.hset("gf:meta", "schema", SCHEMA + 1)

    listed = subprocess.run(
        [sys.executable, "-m", "graphflow", "list", "--url", server.url],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert listed.returncode != 0
    assert "upgrade graphflow" in listed.stderr
    assert "Traceback" not in listed.stderr


def test_process_of_the_older_version_finishes_what_it_drives(server: RealServer, tmp_path: Path) -> None:
    log = tmp_path / "bodies.log"

    async def main() -> None:
        agent = agent_of("map", server.url, log, delay=0.1)
        driving = asyncio.create_task(agent.run_task(task_of("map"), run_id="driven"))
        await asyncio.to_thread(wait_bodies_begun, log, 3)
        with looking_at(server.url) as client:
            client.hset("gf:meta", "schema", SCHEMA + 1)
        assert (await driving)["combine"] == answer_of("map")

    run(main())
    with looking_at(server.url) as client:
        check_run(client, "driven", "map")
