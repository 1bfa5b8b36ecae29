"""F7, F8, F11: the Redis server dies in the middle of a run and comes back: the run goes on by itself and has lost
nothing, for what was acknowledged is with the system when only the process dies."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.graphs import FORMS, Form, answer_of, executions, items_of
from tests.faults.harness import Job, looking_at, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.servers import RealServer

CRASHES = 5


@pytest.fixture(scope="module", params=["always", "everysec"])
def careful_server(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    """A server of this file's own that writes what it acknowledges: to the disk, or to the system."""
    with RealServer(appendfsync=request.param) as server:
        yield server


@pytest.mark.parametrize("form", FORMS)
def test_f7_f8_run_survives_crashes_of_its_server(
    form: Form, careful_server: RealServer, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    numbers = random.Random(seed)
    job = Job(careful_server.url, tmp_path.name, form, tmp_path / "bodies.log", lease_seconds=1.0)
    victim = job.start()

    for crash in range(CRASHES):
        wait_bodies_begun(job.log, 1 + crash * items_of(form) // CRASHES)
        time.sleep(numbers.uniform(0, 0.05))
        careful_server.kill()
        time.sleep(numbers.uniform(0, 0.4))
        careful_server.start()

    assert victim.finish() == {"status": "complete", "error": None, "answer": answer_of(form)}
    with looking_at(job.url) as client:
        check_run(client, job.run_id, form)
    if form == "map":
        assert set(executions(job.log).values()) == {1}, "the death of a server repeats no item"


def test_f7_f8_run_survives_that_both_its_server_and_its_process_die(
    careful_server: RealServer, tmp_path: Path
) -> None:
    job = Job(careful_server.url, tmp_path.name, "map", tmp_path / "bodies.log")
    victim = job.start()
    wait_bodies_begun(job.log, 6)
    careful_server.kill()
    victim.kill()
    careful_server.start()

    outcome = job.start().finish()

    assert outcome == {"status": "complete", "error": None, "answer": answer_of("map")}
    with looking_at(job.url) as client:
        check_run(client, job.run_id, "map")
    assert max(executions(job.log).values()) <= 2


def test_f11_server_comes_back_to_the_process_that_drives_and_to_the_one_that_waits(
    careful_server: RealServer, tmp_path: Path
) -> None:
    job = Job(careful_server.url, tmp_path.name, "map", tmp_path / "bodies.log")
    first = job.start("body.running@5=stop").wait_stopped()
    second = job.start()
    second.wait_said("waiting for it")
    first.send(signal.SIGCONT)
    careful_server.kill()
    time.sleep(0.3)
    careful_server.start()

    assert [victim.finish() for victim in (first, second)] == [job.right, job.right]

    assert set(executions(job.log).values()) == {1}
    with looking_at(job.url) as client:
        check_run(client, job.run_id, "map")
