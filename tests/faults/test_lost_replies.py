"""F12, F13: connections that break around a script: what became of the call is found out, and nothing happens twice.

F12 is the lost reply; F13 the call that never arrived, the connection that is reset, and the server that takes no
connections for a while.
"""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
import redis
from redis.asyncio.connection import AbstractConnection

from graphflow.result import RunResult
from graphflow.server.address import parse_address
from graphflow.server.connection import open_client
from graphflow.store.scripts import script
from tests.faults.graphs import AGGREGATES, FORMS, Form, agent_of, answer_of, executions, items_of, task_of
from tests.faults.harness import looking_at, wait_bodies_begun
from tests.faults.invariants import check_run
from tests.faults.proxy import ChaosProxy, calls_of
from tests.helpers import run
from tests.servers import RealServer

SCRIPTS = ("create", "acquire", "commit", "renew", "release")


@pytest.fixture(scope="module", autouse=True)
def scripts_are_known(redis_server: RealServer) -> None:
    """So that the call that is cut is never the one that Redis answers with NOSCRIPT."""
    with looking_at(redis_server.url) as client:
        for name in SCRIPTS:
            client.script_load(script(name).text)


class Scene:
    """One run of a form through a proxy."""

    def __init__(self, server: RealServer, folder: Path, form: Form) -> None:
        self.server = server
        self.run_id = folder.name
        self.form = form
        self.log = folder / "bodies.log"

    async def drive(self, proxy: ChaosProxy) -> RunResult:
        # So short a lease that it is renewed several times within the run.
        agent = agent_of(self.form, proxy.url, self.log, lease_seconds=0.3 if self.form == "map" else 1.0)
        return await agent.run_task(task_of(self.form), run_id=self.run_id)

    def check(self, outcome: RunResult) -> None:
        assert (outcome.status, outcome.error) == ("complete", None)
        assert outcome[AGGREGATES[self.form][1]] == answer_of(self.form)
        with looking_at(self.server.url) as client:
            check_run(client, self.run_id, self.form)
        found = executions(self.log)
        assert set(found) == set(range(items_of(self.form)))
        if self.form == "map":
            assert set(found.values()) == {1}, "a broken connection costs no item"


@pytest.fixture
def scene(form: Form, redis_server: RealServer, tmp_path: Path) -> Scene:
    assert redis_server.socket_path is not None
    return Scene(redis_server, tmp_path, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("after", [True, False], ids=["reply-lost", "call-lost"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_f12_f13_run_completes_although_the_first_calls_of_a_script_are_cut(
    name: str, after: bool, calls: int, scene: Scene
) -> None:
    async def main() -> RunResult:
        async with ChaosProxy(str(scene.server.socket_path)) as proxy:
            proxy.cut(calls_of(name), after=after, turns=range(1, calls + 1))
            outcome = await scene.drive(proxy)
            # A naive run may be over before its lease was renewed so often.
            assert proxy.broken == calls or name == "renew"
            return outcome

    scene.check(run(main()))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "cut",
    [{"after": True}, {"after": False}, {"after": False, "resets": True}],
    ids=["reply-lost", "call-lost", "reset"],
)
def test_f12_f13_run_completes_although_every_second_call_of_each_script_is_cut(
    cut: dict[str, bool], scene: Scene
) -> None:
    async def main() -> RunResult:
        async with ChaosProxy(str(scene.server.socket_path)) as proxy:
            for name in SCRIPTS:
                proxy.cut(calls_of(name), turns=range(1, 1000, 2), **cut)
            outcome = await scene.drive(proxy)
            assert proxy.broken > 5
            return outcome

    scene.check(run(main()))


@pytest.mark.parametrize("form", FORMS)
def test_f13_run_completes_although_its_connections_are_reset_all_the_time(scene: Scene) -> None:
    async def main() -> RunResult:
        async with ChaosProxy(str(scene.server.socket_path)) as proxy:
            driving = asyncio.create_task(scene.drive(proxy))
            # A store that cannot be opened is told at once; what is meant here comes later.
            await asyncio.to_thread(wait_bodies_begun, scene.log, 1)
            while not driving.done():
                await proxy.reset()
                await asyncio.wait([driving], timeout=0.02)
            outcome = await driving
            assert proxy.broken > 2
            return outcome

    scene.check(run(main()))


@pytest.mark.parametrize(
    ("resets", "seen"), [(True, ConnectionResetError), (False, asyncio.IncompleteReadError)]
)
def test_f13_client_sees_a_reset_or_the_end_of_its_connection(
    resets: bool, seen: type[Exception], redis_server: RealServer
) -> None:
    async def main() -> None:
        async with ChaosProxy(str(redis_server.socket_path)) as proxy:
            proxy.cut(lambda command: command == [b"PING"], after=False, turns={2}, resets=resets)
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"*1\r\n$4\r\nPING\r\n")
            assert await reader.readexactly(7) == b"+PONG\r\n"
            writer.write(b"*1\r\n$4\r\nPING\r\n")
            with pytest.raises(seen):
                await reader.readexactly(1)
            writer.close()

    run(main())


@pytest.mark.parametrize("meets", ["reading", "sending"])
def test_f13_error_of_a_connection_that_was_reset_is_nobodys_unhandled_error(
    meets: str, redis_server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It asks for the error before it goes, unless the garbage collector takes the future first: as if it always did.
    monkeypatch.delattr(asyncio.StreamReaderProtocol, "__del__")
    said: list[str] = []

    async def ping(connection: AbstractConnection) -> None:
        await connection.send_command("PING")
        await connection.read_response()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
        async with ChaosProxy(str(redis_server.socket_path)) as proxy:
            client = await open_client(parse_address(proxy.url), role="run")
            if meets == "reading":
                proxy.cut(lambda command: command == [b"PING"], after=False, turns={1}, resets=True)
            connection = await client.connection_pool.get_connection()
            if meets == "sending":
                await proxy.reset()
                while connection._reader.exception() is None:  # noqa: ASYNC110 - asyncio tells nobody
                    await asyncio.sleep(0)
            with pytest.raises(redis.ConnectionError):
                await ping(connection)
            await client.connection_pool.release(connection)
            await client.aclose()

    run(main())
    gc.collect()
    assert said == []


@pytest.mark.parametrize("form", FORMS)
def test_f13_run_goes_on_by_itself_when_a_server_that_refused_connections_takes_them_again(
    scene: Scene,
) -> None:
    async def main() -> RunResult:
        async with ChaosProxy(str(scene.server.socket_path)) as proxy:
            driving = asyncio.create_task(scene.drive(proxy))
            await asyncio.to_thread(wait_bodies_begun, scene.log, 2)
            await proxy.refuse(3)
            return await driving

    scene.check(run(main()))
