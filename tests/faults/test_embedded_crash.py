"""The embedded server and the processes that share it die one without the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphflow.server.embedded import EmbeddedServer
from tests.faults.graphs import FORMS, Form, answer_of, executions, items_of
from tests.faults.harness import Job, looking_at, wait_bodies_begun
from tests.faults.invariants import check_run


@pytest.fixture
def job(form: Form, tmp_path: Path) -> Job:
    return Job(f"embedded://{tmp_path}/.graphflow", tmp_path.name, form, tmp_path / "bodies.log")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """The server that the job uses; not started here."""
    server = EmbeddedServer(tmp_path / ".graphflow")
    yield server
    server.stop()


def check(job: Job, server: EmbeddedServer) -> None:
    with looking_at(f"unix://{server.start()}") as client:
        check_run(client, job.run_id, job.form)
    assert set(executions(job.log)) == set(range(items_of(job.form)))


@pytest.mark.parametrize("form", FORMS)
def test_run_of_a_killed_process_goes_on_in_the_server_that_it_started(
    form: Form, job: Job, server: EmbeddedServer
) -> None:
    victim = job.start()
    wait_bodies_begun(job.log, 3)
    assert victim.kill()

    outcome = job.start().finish()

    assert outcome == {"status": "complete", "error": None, "answer": answer_of(form)}
    check(job, server)


@pytest.mark.parametrize("form", FORMS)
def test_killed_embedded_server_comes_back_and_the_run_goes_on_by_itself(
    form: Form, job: Job, server: EmbeddedServer
) -> None:
    victim = job.start()
    wait_bodies_begun(job.log, 3)
    with looking_at(f"unix://{server.start()}") as client:
        pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGKILL)

    outcome = victim.finish()

    assert outcome == {"status": "complete", "error": None, "answer": answer_of(form)}
    check(job, server)
