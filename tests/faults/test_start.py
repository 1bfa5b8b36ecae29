"""A start while Redis restarts: it waits for the server for a while, and says so."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from graphflow import Agent, RedisCache, StoreUnreachable, Task
from graphflow.store import patient_client
from tests import programs
from tests.helpers import run, wait_until
from tests.servers import RealServer

WAITING = "waiting for Redis at"


@pytest.fixture
def server() -> Iterator[RealServer]:
    with RealServer() as server:
        yield server


@pytest.fixture
def much_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may take longer to start than a start waits for it, on a machine that does much else."""
    monkeypatch.setattr(patient_client, "START_SECONDS", 60.0)


def agent_at(url: str) -> Agent:
    agent = Agent(cache=RedisCache(url))

    @agent.node
    def answer():
        return 7

    return agent


@pytest.mark.usefixtures("much_patience")
def test_runs_that_start_while_redis_restarts_wait_for_it(server: RealServer) -> None:
    agent = agent_at(server.url)

    async def restarts() -> list[object]:
        results = []
        for _ in range(3):
            server.kill()
            starts = [asyncio.create_task(agent_at(server.url).run_task(Task(type="t"))) for _ in range(5)]
            await asyncio.sleep(0)
            await asyncio.to_thread(server.start, until_loaded=False)
            results += [outcome.result for outcome in await asyncio.gather(*starts)]
            results.append((await agent.run_task(Task(type="t"))).result)
        return results

    assert run(restarts()) == 18 * [7]


@pytest.mark.usefixtures("much_patience")
def test_start_says_after_a_second_what_it_waits_for(
    server: RealServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()

    async def start() -> object:
        starting = asyncio.create_task(agent_at(server.url).run_task(Task(type="t")))
        while WAITING not in caplog.text:
            assert not starting.done()
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.start)
        return (await starting).result

    assert run(start()) == 7
    [said] = [record for record in caplog.records if WAITING in record.message]
    assert said.levelno == logging.WARNING
    assert server.url in said.message
    assert "Connect" in said.message, "with the reason"


@contextmanager
def closing_listener() -> Iterator[str]:
    """The URL of a server that closes every connection at once, as one that is shutting down does."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def close_each() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.close()

        thread = threading.Thread(target=close_each)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_start_at_a_server_that_closes_connections_gives_up_after_its_patience(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with closing_listener() as url, pytest.raises(StoreUnreachable):
        agent_at(url).run_task_sync(Task(type="t"))

    assert WAITING in caplog.text
    assert patient_client.SILENT_SECONDS < patient_client.START_SECONDS < 5


@pytest.mark.usefixtures("much_patience")
def test_start_at_a_server_that_closes_connections_at_first_goes_on(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = patient_client.open_client
    tries = []

    async def try_again(address, **options):
        tries.append(address)
        if len(tries) < 4:
            raise StoreUnreachable(address.masked, "Connection closed by server.")
        return await opened(address, **options)

    monkeypatch.setattr(patient_client, "open_client", try_again)

    assert agent_at(server.url).run_task_sync(Task(type="t")).result == 7
    assert len(tries) == 4


def test_command_says_what_it_waits_for_and_ends_with_exit_code_5(tmp_path: Path, server: RealServer) -> None:
    (tmp_path / "flow.py").write_text(
        "from graphflow import Agent\nagent = Agent()\n\n@agent.node\ndef answer():\n    return 7\n"
    )
    server.kill()

    process = programs.start(
        ["-m", "graphflow", "run", "flow.py"],
        cwd=tmp_path,
        env={**os.environ, "GRAPHFLOW_REDIS_URL": server.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        _, errors = process.communicate(timeout=50)

    assert process.returncode == 5
    waiting, *_, said = errors.splitlines()
    assert waiting.startswith(f"{WAITING} {server.url}: ")
    assert said.startswith("Error: cannot reach Redis at ")
    assert "Traceback" not in errors


def test_command_goes_on_when_redis_is_back(tmp_path: Path, server: RealServer) -> None:
    (tmp_path / "flow.py").write_text(
        "from graphflow import Agent\nfrom graphflow.store import patient_client\n"
        "patient_client.START_SECONDS = 60\n"
        "agent = Agent()\n\n@agent.node\ndef answer():\n    return 7\n"
    )
    server.kill()
    errors = tmp_path / "errors"

    with (
        errors.open("w") as stderr,
        programs.start(
            ["-m", "graphflow", "run", "flow.py"],
            cwd=tmp_path,
            env={**os.environ, "GRAPHFLOW_REDIS_URL": server.url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        wait_until(lambda: WAITING in errors.read_text(), what="a word on what it waits for")
        server.start()
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 0, errors.read_text()
    assert "result   7" in output


def test_start_at_a_server_that_does_not_answer_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def start(url: str) -> None:
        starting = asyncio.create_task(agent_at(url).run_task(Task(type="t")))
        while WAITING not in caplog.text:
            assert not starting.done()
            await asyncio.sleep(0.01)
        starting.cancel()
        await asyncio.wait([starting])

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        run(start(f"redis://127.0.0.1:{listener.getsockname()[1]}"))

    assert "it does not answer" in caplog.text
