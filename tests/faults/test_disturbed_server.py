"""F9, F10: a server that has lost what it acknowledged, some of it or all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from graphflow.errors import RunNotFound
from tests.faults.graphs import FORMS, Form, agent_of, answer_of, items_of, task_of
from tests.faults.harness import Job, looking_at, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.helpers import run
from tests.servers import RealServer


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    """Of this file's own: what others keep is not to be lost."""
    with RealServer() as server:
        yield server


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
