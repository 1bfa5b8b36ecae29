"""F18: a server that stands still for longer than the leases of its runs. All of them expire at once; each run goes on under
one owner, and who waits for them does not storm the server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults.graphs import agent_of, answer_of, executions, task_of
from tests.faults.harness import Job, looking_at, run_field, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.helpers import run
from tests.servers import RealServer

LEASE_SECONDS = 0.5
PAUSE_SECONDS = 1.5
RIGHT = {"status": "complete", "error": None, "answer": answer_of("map")}


def pause(client: redis.Redis) -> Any:
    return client.execute_command("CLIENT", "PAUSE", int(PAUSE_SECONDS * 1000), "ALL")


def sleep(client: redis.Redis) -> Any:
    return client.execute_command("DEBUG", "SLEEP", PAUSE_SECONDS)


@pytest.mark.parametrize("stand_still", [pause, sleep])
def test_two_processes_that_could_drive_a_run_agree_on_one_after_a_pause(
    stand_still: Any, tmp_path: Path
) -> None:
    with RealServer() as server, looking_at(server.url) as client:
        job = Job(
            server.url, tmp_path.name, "map", tmp_path / "bodies.log", delay=0.2, lease_seconds=LEASE_SECONDS
        )
        first = job.start()
        wait_bodies_begun(job.log, 3)
        second = job.start().wait_begun()

        stand_still(client)

        assert [first.finish(), second.finish()] == [RIGHT, RIGHT]
        check_run(client, job.run_id, "map")
        # One more for each time that the run changed hands, for the items in flight.
        leases = int(run_field(client, job.run_id, "leases") or 0)
        assert max(executions(job.log).values()) <= leases <= 3


def test_many_runs_whose_leases_expired_together_go_on_without_a_storm(tmp_path: Path) -> None:
    runs = 20

    async def main(server: RealServer) -> None:
        agent = agent_of("map", server.url, tmp_path / "bodies.log", delay=0.1, lease_seconds=LEASE_SECONDS)
        driving = [
            asyncio.create_task(agent.run_task(task_of("map"), run_id=f"{tmp_path.name}-{number}"))
            for number in range(runs)
        ]
        await asyncio.to_thread(wait_bodies_begun, tmp_path / "bodies.log", runs)
        with looking_at(server.url) as client:
            before = client.info("stats")
            await asyncio.to_thread(pause, client)
            outcomes = await asyncio.gather(*driving)
            after = client.info("stats")

        assert [outcome["combine"] for outcome in outcomes] == [answer_of("map")] * runs
        assert after["total_connections_received"] - before["total_connections_received"] <= 20
        commands = after["total_commands_processed"] - before["total_commands_processed"]
        # Of the scripts' own commands there are some ten each.
        assert commands < runs * 1000, commands
        with looking_at(server.url) as client:
            for number in range(runs):
                check_run(client, f"{tmp_path.name}-{number}", "map")

    with RealServer() as server:
        run(main(server))
