import asyncio
import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess

import pytest

from graphflow.errors import (
    AccessDenied,
    EmbeddedServerError,
    StoreError,
    StoreFull,
    StoreUnreachable,
    WritesRefused,
)
from graphflow.server.address import parse_address
from graphflow.server.connection import open_client, open_sync_client, translate_errors
from graphflow.server.small_client import Conversation
from tests.helpers import run, wait_until
from tests.servers import RealServer


@contextlib.asynccontextmanager
async def client_of(url, **options):
    client = await open_client(parse_address(url), role="test", **options)
    try:
        yield client
    finally:
        await client.aclose()


def by_command(client, name, *arguments):
    return client.execute_command(name, *arguments)


def by_script(client, name, *arguments):
    """Scripts have a way of their own through the client."""
    return client.execute_command("EVAL", "return redis.call(unpack(ARGV))", 0, name, *arguments)


either_way = pytest.mark.parametrize("ask", [by_command, by_script])


def test_client_returns_text_and_keeps_every_kind_of_argument(any_redis_url):
    async def main():
        async with client_of(any_redis_url) as client:
            await client.set("kinds:text", "grün ✓\r\n")
            await client.set("kinds:integer", 12345678901234567890)
            await client.set("kinds:float", 0.1)
            await client.set("kinds:bytes", b"plain")
            await client.set("kinds:view", memoryview(b"view"))
            await client.set("kinds:empty", "")
            return await client.mget(
                [f"kinds:{k}" for k in ("text", "integer", "float", "bytes", "view", "empty")]
            )

    assert run(main()) == ["grün ✓\r\n", "12345678901234567890", "0.1", "plain", "view", ""]


def test_commands_named_by_two_words_and_scripts_arrive(any_redis_url):
    async def main():
        async with client_of(any_redis_url) as client:
            digest = await client.script_load("return {KEYS[1], ARGV[1]}")
            assert await client.script_exists(digest) == [True]
            return await client.evalsha(digest, 1, "a key with spaces", "x y")

    assert run(main()) == ["a key with spaces", "x y"]


def test_pipeline_with_a_large_value_arrives_whole(any_redis_url):
    value = "é" * 500_000

    async def main():
        async with client_of(any_redis_url) as client:
            pipeline = client.pipeline(transaction=False)
            for index in range(200):
                pipeline.rpush("pipeline:list", index)
            pipeline.set("pipeline:value", value)
            pipeline.llen("pipeline:list")
            replies = await pipeline.execute()
            assert await client.get("pipeline:value") == value
            await client.delete("pipeline:list", "pipeline:value")
            return replies[-1]

    assert run(main()) == 200


def test_value_that_redis_cannot_hold_is_refused_and_the_client_stays_usable(redis_url):
    from redis.exceptions import DataError

    async def main():
        async with client_of(redis_url) as client:
            for value in (None, {"a": 1}):
                with pytest.raises(DataError):
                    await client.execute_command("SET", "refused", value)
            return await client.ping()

    assert run(main()) is True


def test_sync_client_sees_the_same_store(any_redis_url):
    async def main():
        async with client_of(any_redis_url) as client:
            await client.set("shared", "ünï")

    run(main())
    client = open_sync_client(parse_address(any_redis_url), role="lease")

    assert client.get("shared") == "ünï"
    client.close()


def test_memory_stores_are_shared_by_name_and_apart_otherwise():
    async def main():
        async with (
            client_of("memory://one") as one,
            client_of("memory://two") as two,
            client_of("memory://one") as same,
        ):
            await one.set("key", "value")
            return await same.get("key"), await two.get("key")

    assert run(main()) == ("value", None)


def test_client_list_names_role_host_and_process(redis_url):
    async def main():
        async with client_of(redis_url) as client:
            return [row["name"] for row in await client.client_list()]

    assert any(re.fullmatch(rf"graphflow:test:[\w.-]+:{os.getpid()}", name) for name in run(main()))


def test_more_commands_than_connections_wait_instead_of_failing(redis_url):
    async def main():
        async with client_of(redis_url, max_connections=3) as client:
            await asyncio.gather(*(client.set(f"many:{i}", i) for i in range(300)))
            mine = [row for row in await client.client_list() if ":test:" in row["name"]]
            return len(mine), await asyncio.gather(*(client.get(f"many:{i}") for i in range(300)))

    connections, values = run(main())
    assert connections <= 3
    assert values == [str(i) for i in range(300)]


@either_way
def test_cancelled_commands_leave_no_connection_behind(redis_url, ask):
    async def main():
        async with client_of(redis_url, max_connections=2) as client:
            await client.set("storm", "calm")
            for round_number in range(40):
                tasks = [asyncio.create_task(ask(client, "GET", "storm")) for _ in range(12)]
                for _ in range(round_number % 13):
                    await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert {r for r in results if isinstance(r, str)} <= {"calm"}
                assert not [r for r in results if isinstance(r, Exception)]
            async with asyncio.timeout(5):
                return await asyncio.gather(*(ask(client, "GET", "storm") for _ in range(20)))

    assert run(main()) == ["calm"] * 20


def test_waiter_cancelled_as_its_connection_comes_free_passes_it_on(redis_url):
    async def main():
        async with client_of(redis_url, max_connections=1) as client:
            pool = client.connection_pool
            held = await pool.get_connection()
            first, second = (asyncio.create_task(client.echo(word)) for word in ("first", "second"))
            await asyncio.sleep(0)
            await pool.release(held)
            first.cancel()
            async with asyncio.timeout(5):
                return await second

    assert run(main()) == "second"


@either_way
def test_command_whose_reply_was_lost_is_not_sent_again(ask):
    """A proxy forwards INCR and cuts the connection before the reply: the count must say one."""

    async def main(server):
        forwarded = 0

        async def proxy(reader, writer):
            nonlocal forwarded
            up_reader, up_writer = await asyncio.open_unix_connection(server.socket_path)
            while data := await reader.read(65536):
                up_writer.write(data)
                reply = await up_reader.read(65536)
                if b"INCR" in data:
                    forwarded += 1
                    break
                writer.write(reply)
            up_writer.close()
            writer.close()

        listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
        address = parse_address(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        client = await open_client(address, role="test")
        with pytest.raises(StoreUnreachable), translate_errors(address):
            await ask(client, "INCR", "counted")
        sync_client = await asyncio.to_thread(open_sync_client, address, role="test")
        with pytest.raises(StoreUnreachable), translate_errors(address):
            await asyncio.to_thread(sync_client.incr, "counted")
        await client.aclose()
        sync_client.close()
        listener.close()
        async with client_of(server.url) as direct:
            return forwarded, await direct.get("counted")

    with RealServer() as server:
        assert run(main(server)) == (2, "2")


@either_way
@pytest.mark.parametrize("tcp", [False, True])
def test_idle_client_serves_again_after_the_server_was_restarted(tcp, ask):
    async def main(server):
        async with client_of(server.url) as client:
            await asyncio.gather(*(client.set("kept", "x") for _ in range(8)))
            await asyncio.to_thread(server.restart)
            return await asyncio.gather(*(ask(client, "GET", "kept") for _ in range(8)))

    with RealServer(tcp=tcp, appendfsync="always") as server:
        assert run(main(server)) == ["x"] * 8


@either_way
def test_silent_server_is_given_up_after_the_reply_time(ask):
    """And after no less, however long ago the connection was used."""

    async def main(server):
        async with client_of(server.url, reply_seconds=1.5) as client, client_of(server.url) as other:
            for idle in (0.0, 0.7, 1.6):
                assert await ask(client, "ECHO", "hello") == "hello"
                await asyncio.sleep(idle)
                await other.execute_command("CLIENT", "PAUSE", "300", "ALL")
                assert await ask(client, "ECHO", "late") == "late"
            await other.execute_command("CLIENT", "PAUSE", "20000", "ALL")
            with (
                pytest.raises(StoreUnreachable, match=r"[Tt]ime"),
                translate_errors(parse_address(server.url)),
            ):
                async with asyncio.timeout(10):
                    await ask(client, "ECHO", "too late")

    with RealServer() as server:
        run(main(server))


def test_script_does_not_take_what_came_unasked_for_its_reply(redis_url):
    async def main():
        async with client_of(redis_url, max_connections=1) as client:
            pool = client.connection_pool
            connection = await pool.get_connection()
            await connection.send_command("ECHO", "stale")
            await asyncio.to_thread(wait_until, lambda: not connection.is_at_rest)
            await pool.release(connection)
            return await by_script(client, "ECHO", "fresh")

    assert run(main()) == "fresh"


def test_unreachable_store_is_named_without_its_password(tmp_path):
    address = parse_address(f"unix://me:hunter2@{tmp_path}/none.sock")

    with pytest.raises(StoreUnreachable, match=r"unix://\*\*\*@") as caught:
        run(open_client(address, role="test"))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(StoreUnreachable):
        open_sync_client(address, role="test")


@pytest.mark.parametrize("engine", ["current", "6.2"])
def test_error_replies_become_errors_that_say_what_to_do(engine):
    async def main(server):
        address = parse_address(server.url.replace("unix://", "unix://:secret@"))
        with pytest.raises(AccessDenied):
            await open_client(parse_address(server.url), role="test")
        with pytest.raises(AccessDenied):
            await open_client(parse_address(server.url.replace("unix://", "unix://:wrong@")), role="test")
        client = await open_client(address, role="test")
        await client.set("text", "x" * 1000)
        with pytest.raises(StoreError, match="WRONGTYPE"), translate_errors(address):
            await client.rpush("text", "1")
        pipeline = client.pipeline(transaction=False).rpush("text", "payload")
        with pytest.raises(StoreError, match="WRONGTYPE") as caught, translate_errors(address):
            await pipeline.execute()
        assert "payload" not in str(caught.value)
        await client.config_set("maxmemory", "1")
        with pytest.raises(StoreFull), translate_errors(address):
            await client.set("more", "x")
        with pytest.raises(StoreFull), translate_errors(address):
            await client.eval("return redis.call('SET', KEYS[1], 'x')", 1, "more")
        pipeline = client.pipeline(transaction=False).set("more", "payload")
        with pytest.raises(StoreFull), translate_errors(address):
            await pipeline.execute()
        await client.config_set("maxmemory", "0")
        await client.config_set("min-replicas-to-write", "1")
        with pytest.raises(WritesRefused), translate_errors(address):
            await client.set("more", "x")
        await client.config_set("min-replicas-to-write", "0")
        await client.execute_command(
            "ACL", "SETUSER", "reader", "on", ">pw", "~*", "+get", "+ping", "+client"
        )
        reader_address = parse_address(server.url.replace("unix://", "unix://reader:pw@"))
        reader = await open_client(reader_address, role="test")
        with pytest.raises(AccessDenied), translate_errors(reader_address):
            await reader.set("more", "x")
        await reader.aclose()
        await client.aclose()

    with RealServer(engine, options={"requirepass": "secret", "maxmemory-policy": "noeviction"}) as server:
        # The harness takes NOAUTH for an answer, as does everything that only asks whether a server is up.
        run(main(server))


def test_tls_address_is_encrypted_and_its_certificate_checked(redis_server, tmp_path):
    certificate, key = make_certificate(tmp_path)

    async def main():
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        proxy = await asyncio.start_server(forward_to(redis_server.socket_path), "localhost", 0, ssl=context)
        base = f"rediss://localhost:{proxy.sockets[0].getsockname()[1]}"
        trusting = parse_address(f"{base}?ssl_ca_certs={certificate}")
        async with client_of(trusting.url) as client:
            await client.set("encrypted", "yes")
        sync_client = await asyncio.to_thread(open_sync_client, trusting, role="test")
        assert await asyncio.to_thread(sync_client.get, "encrypted") == "yes"
        sync_client.close()
        with await asyncio.to_thread(Conversation, trusting) as conversation:
            assert await asyncio.to_thread(conversation.ask, "GET", "encrypted") == b"yes"
        async with client_of(f"{base}?ssl_cert_reqs=none") as client:
            assert await client.get("encrypted") == "yes"
        with pytest.raises(StoreUnreachable, match=r"(?i)certificate"):
            await open_client(parse_address(base), role="test")
        proxy.close()

    run(main())


def make_certificate(folder):
    """A certificate for localhost and its key, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl program is needed to make a certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    request = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, "req", "-x509", "-days", "2", *request, *files], check=True, capture_output=True)
    return certificate, key


def forward_to(socket_path):
    """A server callback that passes bytes on to a unix socket and back."""

    async def pump(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def forward(reader, writer):
        up_reader, up_writer = await asyncio.open_unix_connection(socket_path)
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    return forward


def test_embedded_client_starts_its_server_and_its_close_shuts_it_down(tmp_path):
    address = parse_address("embedded://", cwd=tmp_path)

    async def main():
        client = await open_client(address, role="test")
        sync_client = open_sync_client(address, role="lease")
        await client.set("key", "value")
        assert sync_client.get("key") == "value"
        sync_client.close()
        assert await client.get("key") == "value"
        await client.aclose()
        await client.aclose()

    run(main())
    assert not (tmp_path / ".graphflow" / "redis.sock").exists()
    assert not (tmp_path / ".graphflow" / "server.pid").exists()


def test_embedded_client_brings_a_crashed_server_back_with_what_it_acknowledged(tmp_path):
    address = parse_address("embedded://", cwd=tmp_path)

    async def main():
        async with client_of(address.url) as client:
            await client.config_set("appendfsync", "always")
            await client.set("key", "value")
            sync_client = open_sync_client(address, role="lease")
            folder = tmp_path / ".graphflow"
            os.kill(int((folder / "server.pid").read_text()), 9)
            await asyncio.to_thread(
                wait_until, lambda: not takes_connections(folder / "redis.sock"), what="the server's end"
            )
            first = await second_time_lucky(lambda: client.get("key"))
            second = await second_time_lucky(lambda: asyncio.to_thread(sync_client.get, "key"))
            sync_client.close()
            return first, second

    async def second_time_lucky(command):
        """A command that meets the crash fails, for nobody knows whether it took effect; the next one connects anew."""
        try:
            with translate_errors(address):
                return await command()
        except StoreUnreachable:
            return await command()

    assert run(main()) == ("value", "value")


def test_embedded_server_that_cannot_start_is_reported_as_itself(tmp_path):
    (tmp_path / "file").write_text("")
    address = parse_address(f"embedded://{tmp_path}/file/sub")

    with pytest.raises(EmbeddedServerError, match="embedded:///path/to/folder"):
        run(open_client(address, role="test"))


def takes_connections(path):
    """A process that was killed may still do so while its threads come to their ends, and reset them."""
    with socket.socket(socket.AF_UNIX) as connecting:
        return connecting.connect_ex(str(path)) == 0
