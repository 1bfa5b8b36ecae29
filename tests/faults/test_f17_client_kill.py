"""F17: a server that drops every connection, again and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disturbing import again_and_again
from tests.faults.graphs import FORMS, Form, answer_of, executions
from tests.faults.harness import Job, looking_at, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.servers import RealServer


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    """Of this file's own: others' connections are not to be dropped."""
    with RealServer() as server:
        yield server


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "delay", [None, pytest.param(1.0, marks=pytest.mark.long)], ids=["short", "five seconds"]
)
def test_run_completes_although_connections_are_dropped_all_the_time(
    delay: float | None, form: Form, server: RealServer, tmp_path: Path
) -> None:
    job = Job(server.url, tmp_path.name, form, tmp_path / "bodies.log", delay=delay, lease_seconds=0.5)
    victim = job.start()
    # A store that cannot be opened is told at once; what is meant here comes later.
    wait_bodies_begun(job.log, 1)
    with looking_at(server.url) as client:
        with again_and_again(lambda: client.client_kill_filter(_type="normal", skipme=True), 0.03):
            outcome = victim.finish()

        assert outcome == {"status": "complete", "error": None, "answer": answer_of(form)}
        check_run(client, job.run_id, form)
    if form == "map":
        assert set(executions(job.log).values()) == {1}
