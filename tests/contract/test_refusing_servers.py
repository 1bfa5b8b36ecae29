"""Servers that are there but refuse: no more clients, keys of another node, words that quote the login."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import socketserver
import threading
import traceback

import pytest

from graphflow import Agent, RedisCache, Task
from graphflow.errors import ClusterMember, StoreBusy, StoreError
from graphflow.server.address import Address, find_address, parse_address
from graphflow.server.connection import open_client, open_sync_client, translate_errors
from graphflow.server.small_client import Conversation
from graphflow.store.patient_client import PatientClient
from tests.helpers import run
from tests.servers import ENGINES, RealServer

KINDS = ("async", "sync", "small")
WORDS = "max number of clients reached"


@contextlib.contextmanager
def crowded_server(engine="current", *, tcp=False):
    """A server that takes two clients, and sockets that are these."""
    with RealServer(engine, tcp=tcp, options={"maxclients": "2"}) as server, contextlib.ExitStack() as stack:
        place = ("127.0.0.1", server.port) if tcp else server.socket_path
        clients = []
        while len(clients) < 2:
            client = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
            stack.enter_context(client).connect(place)
            client.sendall(b"PING\r\n")
            if client.recv(100).startswith(b"+PONG"):
                clients.append(client)
        yield server, clients


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("tcp", [False, True])
def test_client_beyond_maxclients_is_told_the_servers_words(engine, tcp):
    with crowded_server(engine, tcp=tcp) as (server, _):
        address = parse_address(server.url)
        for _ in range(
            30
        ):  # who is faster, the client's first command or the server's end, is a matter of luck
            for kind in KINDS:
                with pytest.raises(StoreBusy, match=f"{WORDS}; raise its maxclients"):
                    open_by(kind, address)


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_a_server_that_has_closed_before_anything_was_sent_are_read(kind):
    with refusing_listener() as address, pytest.raises(StoreBusy, match=WORDS):
        open_by(kind, address)


def test_store_is_opened_when_a_client_has_left():
    async def main(address, clients):
        redis = PatientClient(address, patience_seconds=30.0)
        opening = asyncio.create_task(redis.open())
        await asyncio.sleep(0.3)
        assert not opening.done()
        clients[0].close()
        await opening
        await redis.aclose()

    with crowded_server() as (server, clients):
        run(main(parse_address(server.url), clients))


def test_store_that_stays_full_is_given_up_after_the_patience():
    with (
        crowded_server() as (server, _),
        pytest.raises(StoreBusy, match=WORDS),
    ):
        run(PatientClient(parse_address(server.url), patience_seconds=0.3).open())


def test_agents_beyond_maxclients_wait_for_their_turn_and_finish():
    async def main(url):
        async def one():
            await asyncio.sleep(0.1)
            return 1

        agents = [Agent(name=f"agent{number}", cache=RedisCache(url)) for number in range(3)]
        for agent in agents:
            agent.node(name="one")(one)
        return await asyncio.gather(*(agent.run_task(Task(type="crowd")) for agent in agents))

    with RealServer(options={"maxclients": "1"}) as server:
        assert [result["one"] for result in run(main(server.url))] == [1, 1, 1]


def test_local_redis_that_is_full_is_not_passed_over_for_an_embedded_server(tmp_path, monkeypatch):
    with crowded_server(tcp=True) as (server, _):
        monkeypatch.setattr("graphflow.server.address.LOCAL_URL", server.url)

        assert find_address(None, {}, tmp_path).port == server.port


def test_node_of_a_cluster_is_named_as_such():
    with socket.create_server(("127.0.0.1", 0)) as free:
        bus = free.getsockname()[1]
    options = {"cluster-enabled": "yes", "cluster-require-full-coverage": "no", "cluster-port": str(bus)}

    async def main(url):
        client = await open_client(parse_address(url), role="test")
        with (
            pytest.raises(ClusterMember, match=r"one server.*cluster-enabled no"),
            translate_errors(parse_address(url)),
        ):
            await client.get("nobody serves the slot of this key")
        await client.aclose()

    with RealServer(tcp=True, options=options) as server:
        run(main(server.url))


@pytest.mark.parametrize(
    "reply",
    [
        b"-MOVED 9353 127.0.0.1:7001\r\n",
        b"-ASK 9353 127.0.0.1:7001\r\n",
        b"-CROSSSLOT Keys in request don't hash to the same slot\r\n",
        b"-CLUSTERDOWN The cluster is down\r\n",
        b"-ERR Script attempted to access a non local key in a cluster node\r\n",
        b"-ERR SELECT is not allowed in cluster mode\r\n",
    ],
)
@pytest.mark.parametrize("command", ["GET", "EVAL"])
def test_whatever_a_cluster_answers_becomes_one_sentence(reply, command):
    async def ask(address):
        client = await open_client(address, role="test")
        try:
            with translate_errors(address):
                await client.execute_command(command, "x", 0)
        finally:
            await client.aclose()

    with (
        answering(lambda words: reply if words[0] in (b"GET", b"EVAL") else None) as address,
        pytest.raises(ClusterMember, match=r"one server") as caught,
    ):
        run(ask(address))
    assert reply.decode()[1:].strip().removeprefix("ERR ") in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "login"),
    [
        (kind, login)
        for kind in KINDS
        for login in (":hunter2@", "me:hunter2@", "hunter2@")
        # The small client sends no login without a password.
        if (kind, login) != ("small", "hunter2@")
    ],
)
def test_password_that_the_server_quotes_is_shown_nowhere(kind, login):
    """As a server does that has no AUTH, or under another name."""

    def reply(words):
        quoted = ", ".join(f"`{word.decode()}`" for word in words[1:])
        return f"-ERR unknown command `{words[0].decode()}`, with args beginning with: {quoted}\r\n".encode()

    with answering(reply) as place:
        address = parse_address(place.url.replace("//", f"//{login}"))
        with pytest.raises(StoreError) as caught:
            open_by(kind, address)
    error = caught.value
    assert "unknown command" in str(error)
    below: BaseException | None = error
    while below is not None:
        assert "hunter2" not in f"{below} {below!r} {below.args!r} {vars(below)!r}"
        below = below.__cause__ or below.__context__
    assert "hunter2" not in "".join(traceback.format_exception(error))


def test_printed_clients_hide_the_login():
    """redis-py 6 prints all settings of a pool, as in its warning of a client that was not closed."""

    async def main(address):
        client = await open_client(address, role="test")
        sync_client = await asyncio.to_thread(open_sync_client, address, role="test")
        shown = [
            repr(each) for each in (client, client.connection_pool, sync_client, sync_client.connection_pool)
        ]
        await client.aclose()
        sync_client.close()
        return shown

    with answering(lambda words: None) as place:
        for shown in run(main(parse_address(place.url.replace("//", "//me:hunter2@")))):
            assert "hunter2" not in shown
            assert str(place.port) in shown


def open_by(kind, address):
    """Which of the three clients it is; each says hello as it is opened, the small one with its first command."""
    if kind == "async":
        run(open_client(address, role="test"))
    elif kind == "sync":
        open_sync_client(address, role="test")
    else:
        with Conversation(address) as conversation:
            conversation.ask("PING")


@contextlib.contextmanager
def refusing_listener():
    """Says the words to whoever connects and closes; the client only goes on once that has happened."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.sendall(f"-ERR {WORDS}\r\n".encode())
            connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        yield Address("tcp", host="127.0.0.1", port=listener.getsockname()[1])
        thread.join()


@contextlib.contextmanager
def answering(reply):
    """A server that answers with `reply(words)`, or as a server does that obeys everything where that is None."""

    class Talk(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while header := self.rfile.readline():
                words = []
                for _ in range(int(header[1:])):
                    self.rfile.readline()
                    words.append(self.rfile.readline()[:-2])
                self.wfile.write(reply(words) or (b"+PONG\r\n" if words == [b"PING"] else b"+OK\r\n"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Talk) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Address("tcp", host="127.0.0.1", port=server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
