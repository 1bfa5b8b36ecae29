"""F3, F4, F5: who drives a run when several processes could: one does, the others wait or take over, and nobody tears
it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import redis

from tests.faults.graphs import executions, items_of
from tests.faults.harness import Job, Victim, looking_at, run_field, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.helpers import SOON_SECONDS, wait_until
from tests.servers import RealServer


def job_of(
    server: RealServer, folder: Path, *, lease_seconds: float = 10.0, delay: float | None = None
) -> Job:
    run_id = f"takeover-{folder.name}"
    return Job(server.url, run_id, "map", folder / "bodies.log", delay=delay, lease_seconds=lease_seconds)


def pids(log: Path) -> set[str]:
    return {line.split()[1] for line in log.read_text().splitlines()}


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.long)])
def test_f4_of_two_processes_that_start_a_run_at_once_one_drives_and_both_return_its_result(
    times: int, redis_server: RealServer, tmp_path: Path
) -> None:
    for number in range(times):
        folder = tmp_path / f"{tmp_path.name}-{number}"
        folder.mkdir()
        job = job_of(redis_server, folder)
        job.barrier = folder / "go"
        both = [job.start(), job.start()]
        for victim in both:
            victim.wait_begun()

        job.barrier.touch()

        assert [victim.finish() for victim in both] == [job.right, job.right]
        assert set(executions(job.log).values()) == {1}, "each item has run once"
        assert len(pids(job.log)) == 1, "one process has driven"
        with looking_at(job.url) as client:
            check_run(client, job.run_id, "map")


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.long)])
def test_f4_of_two_processes_that_resume_a_run_at_once_one_drives_and_both_return_its_result(
    times: int, redis_server: RealServer, tmp_path: Path
) -> None:
    for number in range(times):
        folder = tmp_path / f"{tmp_path.name}-{number}"
        folder.mkdir()
        job = job_of(redis_server, folder)
        assert job.start("body.running@6=kill").died()
        job.barrier = folder / "go"
        both = [job.start().wait_begun() for _ in range(2)]

        job.barrier.touch()

        assert [victim.finish() for victim in both] == [job.right, job.right]
        assert max(executions(job.log).values()) <= 2, "what was in flight has run once more"
        assert len(pids(job.log)) == 2, "of the two one has driven"
        with looking_at(job.url) as client:
            assert run_field(client, job.run_id, "leases") == "2"
            check_run(client, job.run_id, "map")


@pytest.mark.parametrize("pause", ["at once", "after the lease"])
def test_f3_run_whose_processes_have_all_died_goes_on_in_a_new_one(
    pause: str, redis_server: RealServer, tmp_path: Path
) -> None:
    job = job_of(redis_server, tmp_path, lease_seconds=0.5)
    victims = [job.start(), job.start()]
    wait_bodies_begun(job.log, 6)
    for victim in victims:
        victim.kill()
    with looking_at(job.url) as client:
        if pause == "after the lease":
            wait_until(lambda: lease_left(client, job.run_id) < -0.1, what="the end of the lease")

        assert job.start().finish() == job.right

        check_run(client, job.run_id, "map")
    assert max(executions(job.log).values()) <= 2


def test_f3_run_of_a_dead_process_of_this_host_is_taken_over_at_once(
    redis_server: RealServer, tmp_path: Path
) -> None:
    job = job_of(redis_server, tmp_path, lease_seconds=60)
    victim = job.start()
    wait_bodies_begun(job.log, 5)
    victim.kill()
    with looking_at(job.url) as client:
        assert lease_left(client, job.run_id) > 30, "the lease of the dead is far from its end"
        began = time.monotonic()

        assert job.start().finish() == job.right

        assert time.monotonic() - began < SOON_SECONDS
        assert run_field(client, job.run_id, "leases") == "2"
        check_run(client, job.run_id, "map")
    assert max(executions(job.log).values()) <= 2


@pytest.mark.parametrize("wakes", ["after the other has finished", "while the other drives"])
def test_f5_stopped_process_loses_its_run_only_with_its_lease_and_returns_the_result_of_the_other(
    wakes: str, redis_server: RealServer, tmp_path: Path
) -> None:
    job = job_of(redis_server, tmp_path, lease_seconds=2.4, delay=0.3)
    first = job.start()
    wait_bodies_begun(job.log, 5)
    first.send(signal.SIGSTOP)
    try:
        with looking_at(job.url) as client:
            deadline = int(client.hget(lease_key(job.run_id), "deadline") or 0)
            second = job.start()
            wait_until(lambda: run_field(client, job.run_id, "leases") == "2", what="the takeover")
            assert server_ms(client) >= deadline, "a lease is not taken from a living process before its end"
            _wake(first, second, wakes)

            assert first.finish() == job.right
            check_run(client, job.run_id, "map")
            assert run_field(client, job.run_id, "leases") == "2"
    finally:
        first.send(signal.SIGCONT)
    assert "lease" in first.errors, f"the first process says what happened:\n{first.errors}"
    found = executions(job.log)
    assert set(found) == set(range(items_of("map")))
    assert max(found.values()) <= 2


def test_f5_process_that_asks_for_a_run_that_has_just_ended_gets_its_result_and_leaves_nothing_behind(
    redis_server: RealServer, tmp_path: Path
) -> None:
    job = job_of(redis_server, tmp_path)
    driver = job.start("body.running@2=stop").wait_stopped()
    late = job.start("lease.acquire=stop;lease.acquired=kill").wait_stopped()
    driver.send(signal.SIGCONT)
    assert driver.finish() == job.right

    late.send(signal.SIGCONT)
    code, outcome = late.ended()

    with looking_at(job.url) as client:
        keys = client.scan_iter(match=f"gf:run:{{{job.run_id}}}*", count=1000)
        assert [key for key in keys if client.pttl(key) < 0] == [], "a key without an end"
        check_run(client, job.run_id, "map")
    assert (code, outcome) == (0, job.right)


def _wake(first: Victim, second: Victim, when: str) -> None:
    if when == "while the other drives":
        first.send(signal.SIGCONT)
        assert second.finish() == second.job.right
    else:
        assert second.finish() == second.job.right
        first.send(signal.SIGCONT)


def lease_key(run_id: str) -> str:
    return f"gf:run:{{{run_id}}}:lease"


def lease_left(client: redis.Redis, run_id: str) -> float:
    """Seconds until the lease ends."""
    return (int(client.hget(lease_key(run_id), "deadline") or 0) - server_ms(client)) / 1000


def server_ms(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) / 1000
