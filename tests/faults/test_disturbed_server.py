"""A server that forgets scripts, drops connections, or has lost what it acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from graphflow.errors import RunNotFound
from tests.faults.graphs import FORMS, Form, agent_of, answer_of, executions, items_of, task_of
from tests.faults.harness import Job, looking_at, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.helpers import run
from tests.servers import RealServer


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    """Of this file's own: others' connections are not to be dropped."""
    with RealServer() as server:
        yield server


@contextmanager
def again_and_again(disturb: Callable[[], object], seconds: float) -> Iterator[None]:
    """Disturb every few seconds as long as the block lasts."""
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(seconds):
            disturb()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("disturbance", ["scripts forgotten", "connections dropped"])
def test_run_completes_on_a_server_that_is_disturbed_all_the_time(
    disturbance: str, form: Form, server: RealServer, tmp_path: Path
) -> None:
    job = Job(server.url, tmp_path.name, form, tmp_path / "bodies.log", lease_seconds=0.5)
    with looking_at(server.url) as client:
        if disturbance == "scripts forgotten":
            disturbing = again_and_again(client.script_flush, 0.005)
        else:
            disturbing = again_and_again(lambda: client.client_kill_filter(_type="normal", skipme=True), 0.03)
        with disturbing:
            outcome = job.start().finish()

        assert outcome == {"status": "complete", "error": None, "answer": answer_of(form)}
        check_run(client, job.run_id, form)
    if form == "map":
        assert set(executions(job.log).values()) == {1}


@pytest.mark.parametrize("form", FORMS)
def test_run_goes_on_from_what_is_left_when_the_server_lost_the_latest_commits(
    form: Form, server: RealServer, tmp_path: Path
) -> None:
    job = Job(server.url, tmp_path.name, form, tmp_path / "bodies.log")
    victim = job.start()
    with looking_at(server.url) as client:
        wait_bodies_begun(job.log, items_of(form) // 4)
        earlier = _copy(server, job.run_id)
        wait_bodies_begun(job.log, items_of(form) * 3 // 4)
        _put_back(server, job.run_id, earlier)

        outcome = victim.finish()

        assert outcome == {"status": "complete", "error": None, "answer": answer_of(form)}
        check_run(client, job.run_id, form)


def test_run_whose_keys_are_gone_is_an_error_and_does_not_come_back_half(
    server: RealServer, tmp_path: Path
) -> None:
    log = tmp_path / "bodies.log"
    raised: list[BaseException] = []

    def drive() -> None:
        with pytest.raises(RunNotFound) as found:
            run(agent_of("map", server.url, log).run_task(task_of("map"), run_id=tmp_path.name))
        raised.append(found.value)

    thread = threading.Thread(target=drive)
    thread.start()
    with looking_at(server.url) as client:
        wait_bodies_begun(log, 5)
        client.delete(*_keys(client, tmp_path.name))

        thread.join(20)

        assert raised
        assert _keys(client, tmp_path.name) == []


def _keys(client: redis.Redis, run_id: str) -> list[Any]:
    return list(client.scan_iter(match=f"gf:run:{{{run_id}}}*", count=1000))


def _copy(server: RealServer, run_id: str) -> dict[bytes, bytes]:
    """All keys of a run as they are at one moment."""
    # What DUMP returns is no text.
    with redis.Redis(unix_socket_path=str(server.socket_path)) as client:
        keys = _keys(client, run_id)
        with client.pipeline(transaction=True) as pipe:
            for key in keys:
                pipe.dump(key)
            return {key: dump for key, dump in zip(keys, pipe.execute(), strict=True) if dump is not None}


def _put_back(server: RealServer, run_id: str, copy: dict[bytes, bytes]) -> None:
    with (
        redis.Redis(unix_socket_path=str(server.socket_path)) as client,
        client.pipeline(transaction=True) as pipe,
    ):
        pipe.delete(*_keys(client, run_id))
        for key, dump in copy.items():
            pipe.restore(key, 0, dump)
        pipe.execute()
