"""F10: the server has lost everything, under a process that drives a run: the run is said to be gone, and nothing of it
comes back by halves."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graphflow.errors import GraphflowError, RunNotFound
from tests.faults.graphs import FORMS, Form, agent_of, executions, items_of, task_of
from tests.faults.harness import looking_at, wait_bodies_begun
from tests.helpers import run
from tests.servers import RealServer


@pytest.fixture
def server() -> Iterator[RealServer]:
    with RealServer() as server:
        yield server


def flush(server: RealServer) -> None:
    with looking_at(server.url) as client:
        client.flushall()


def restart_without_data(server: RealServer) -> None:
    server.kill()
    shutil.rmtree(server.folder / "appendonlydir")
    server.start()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lose", [flush, restart_without_data])
def test_f10_run_that_the_server_has_lost_is_an_error_and_does_not_come_back_by_halves(
    lose: Callable[[RealServer], None], form: Form, server: RealServer, tmp_path: Path
) -> None:
    log = tmp_path / "bodies.log"
    raised: list[BaseException] = []

    def drive() -> None:
        try:
            run(agent_of(form, server.url, log, delay=0.1).run_task(task_of(form), run_id=tmp_path.name))
        except GraphflowError as error:
            raised.append(error)

    thread = threading.Thread(target=drive)
    thread.start()
    wait_bodies_begun(log, 2)
    lose(server)
    thread.join(20)

    assert [type(error) for error in raised] == [RunNotFound]
    assert set(executions(log)) != set(range(items_of(form))), "who drove the run has stopped"
    with looking_at(server.url) as client:
        left = set(client.scan_iter(match="gf:run:*", count=1000))
        assert left == set()
