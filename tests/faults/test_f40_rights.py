"""F40: a user with the documented rights and no more, a cluster, TLS, and both protocols of Redis."""

from __future__ import annotations

import asyncio
import binascii
import re
import socket
import ssl
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis

from graphflow.errors import MissingRight
from graphflow.server import connection
from graphflow.server.address import parse_address
from graphflow.store import scripts
from graphflow.store.checkup import Checkup, check_up
from graphflow.store.redis_store import RedisStore
from tests.faults.everything import TASK, agent_on, look_after, run_through
from tests.helpers import run as run_async
from tests.helpers import wait_until
from tests.servers import ALL_ENGINES, ENGINES, Engine, RealServer

DOCS = Path(__file__).parents[2] / "docs" / "redis.md"
#: A certificate of `localhost` with its key, valid until 2126, for tests only.
CERTIFICATE = Path(__file__).parent / "localhost.pem"


def documented_rules() -> list[str]:
    """What docs/redis.md gives to ACL SETUSER; its second line is for looking after a store."""
    lines = re.findall(r"^ACL SETUSER graphflow (.+)$", DOCS.read_text(), re.MULTILINE)
    assert len(lines) == 2, lines
    return [line.replace("PASSWORD", "secret") for line in lines]


#: Rights for what the runs here do not meet.
SELDOM_USED = {
    "select": "a URL that names a database",
    "get": "graphflow show",
    "xread": "waiting for events",
    "setrange": "waiting for memory",
    "hincrby": "a process that died",
    "rename": "a second visit of a map that a snapshot names",
}


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    engine: Engine = request.param
    with RealServer(engine) as server:
        yield server


# Rights


def url_of_user(server: RealServer, rules: Sequence[str]) -> str:
    with redis.Redis.from_url(server.url) as client:
        for rule in rules:
            client.execute_command("ACL", "SETUSER", "graphflow", *rule.split())
        client.execute_command("ACL", "LOG", "RESET")
    return server.url.replace("unix://", "unix://graphflow:secret@")


def refused(server: RealServer) -> set[str]:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return {entry["object"] for entry in client.acl_log()}


@pytest.mark.parametrize("engine", ALL_ENGINES)
def test_runs_need_no_more_than_the_documented_rights(engine: Engine) -> None:
    with RealServer(engine) as server:
        run_async(run_through(url_of_user(server, documented_rules()[:1])))

        # Whether the server keeps what it promises is asked for, and may be refused.
        assert {name.split("|")[0] for name in refused(server)} <= {"info", "config"}


def test_looking_after_a_store_needs_the_second_line_of_rights(server: RealServer) -> None:
    url = url_of_user(server, documented_rules())
    run_async(run_through(url))

    checkup = run_async(look_after(url))

    assert checkup.server.appendonly == "yes"
    assert checkup.server.policy == "noeviction"
    assert checkup.problems == []
    assert refused(server) == set()


def test_each_documented_right_is_used(server: RealServer) -> None:
    granted = set(re.findall(r"\+([a-z|]+)", " ".join(documented_rules())))
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.config_resetstat()
        run_async(run_through(server.url))
        run_async(look_after(server.url))
        called = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
    used = {name.partition("|")[0] for name in called}

    assert {name for name in granted if name.partition("|")[0] not in used} <= set(SELDOM_USED)


def test_user_without_a_right_is_told_so(server: RealServer) -> None:
    url = url_of_user(server, [documented_rules()[0], "-evalsha -eval"])

    with pytest.raises(MissingRight, match="give the user the right"):
        run_async(run_through(url))


def rights_of_a_run() -> list[str]:
    return re.findall(r"\+([a-z|]+)", documented_rules()[0])


@pytest.mark.long
@pytest.mark.parametrize("right", rights_of_a_run())
@pytest.mark.parametrize("engine", ALL_ENGINES)
def test_right_that_is_missing_is_named_and_leaves_nothing_by_halves(engine: Engine, right: str) -> None:
    # Redis 6.2 takes and names no single subcommand away.
    taken = right.partition("|")[0] if engine == "6.2" else right
    with RealServer(engine) as server:
        told = refusal_of_runs(url_of_user(server, [documented_rules()[0], f"-{taken}"]))
        assert (taken in told and "docs/redis.md" in told) or right in SELDOM_USED

        url = url_of_user(server, [f"+{taken}"])
        for run_id in runs_of(server):
            outcome = run_async(agent_on(url).run_task(TASK, run_id=run_id))
            assert outcome.status in ("suspended", "partial", "cancelled"), outcome.error
        assert run_async(swept(server.url)).problems == []


def refusal_of_runs(url: str) -> str:
    """What somebody is told who lacks a right for what `run_through` does; nothing if it was not needed."""
    try:
        run_async(run_through(url))
    except MissingRight as error:
        return str(error)
    return ""


def runs_of(server: RealServer) -> list[str]:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return client.zrange("gf:runs", 0, -1)


async def swept(url: str) -> Checkup:
    async with RedisStore(parse_address(url)) as store:
        await store.upkeep().sweep()
    return await check_up(parse_address(url), "gf", fix=False)


# Slots of a cluster


def slot_of(key: str) -> int:
    """As the cluster specification says: CRC16 (XMODEM) of what stands between the first braces, else of the key."""
    tag = re.search(r"\{([^}]+)\}", key)
    return binascii.crc_hqx((tag[1] if tag else key).encode(), 0) % 16384


def test_slots_are_those_of_the_specification() -> None:
    assert slot_of("123456789") == 0x31C3 % 16384
    assert slot_of("gf:run:{a}:state") == slot_of("a") == slot_of("gf:run:{a}")


def test_all_keys_of_every_script_call_are_in_one_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    slots: dict[str, list[int]] = defaultdict(list)
    run, run_sync = scripts.Script.run, scripts.Script.run_sync

    def note(name: str, keys: Sequence[str]) -> None:
        found = {slot_of(key) for key in keys}
        assert len(found) == 1, f"{name}.lua: {keys}"
        slots[name] += found

    async def noting_run(self, client, keys, arguments):
        note(self.name, keys)
        return await run(self, client, keys, arguments)

    def noting_run_sync(self, client, keys, arguments):
        note(self.name, keys)
        return run_sync(self, client, keys, arguments)

    monkeypatch.setattr(scripts.Script, "run", noting_run)
    monkeypatch.setattr(scripts.Script, "run_sync", noting_run_sync)
    with RealServer("current") as server:
        run_async(run_through(server.url))
        run_async(look_after(server.url))

    folder = Path(scripts.__file__).parent / "lua"
    called = {file.stem for file in folder.glob("*.lua")} - {"types", "writes", "quarantine"}
    assert set(slots) == called, "every script was called"


def test_run_on_a_cluster_of_one_node() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bus = str(probe.getsockname()[1])
    options = {"cluster-enabled": "yes", "cluster-port": bus}
    with RealServer("current", tcp=True, options=options) as server:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        run_async(run_through(server.url))
        assert run_async(look_after(server.url)).problems == []


# Protocols


@pytest.mark.parametrize("protocol", [2, 3])
def test_run_over_either_protocol(server: RealServer, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = connection._settings
    monkeypatch.setattr(connection, "_settings", lambda *of: settings(*of) | {"protocol": protocol})

    run_async(run_through(server.url))
    checkup = run_async(look_after(server.url))

    assert checkup.problems == []
    assert checkup.survey.runs == 3


# TLS


def test_run_over_tls(server: RealServer) -> None:
    async def main() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATE)
        links: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            link = asyncio.create_task(forward(reader, writer))
            links.add(link)
            link.add_done_callback(links.discard)

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            answers, upstream = await asyncio.open_unix_connection(server.socket_path)
            try:
                await asyncio.gather(pass_on(reader, upstream), pass_on(answers, writer))
            finally:
                for side in (upstream, writer):
                    side.transport.abort()

        proxy = await asyncio.start_server(accept, "localhost", 0, ssl=context)
        port = proxy.sockets[0].getsockname()[1]
        try:
            url = f"rediss://localhost:{port}/0?ssl_ca_certs={CERTIFICATE}"
            await run_through(url)
            assert (await look_after(url)).survey.runs == 3
        finally:
            proxy.close()
            for link in list(links):
                link.cancel()
            await asyncio.gather(*links, return_exceptions=True)

    run_async(main())


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
