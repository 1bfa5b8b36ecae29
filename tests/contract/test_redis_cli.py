import io
import os
import subprocess
import sys

import pytest

from graphflow.errors import AccessDenied, InvalidAddress, StoreUnreachable
from graphflow.store import cli_client
from graphflow.store.address import Address, parse_address
from graphflow.store.cli_client import redis_cli_arguments, run_redis_cli
from graphflow.store.embedded import EmbeddedServer
from graphflow.store.small_client import Conversation, formatted, raw
from tests.servers import RealServer, redis_cli_path

COMMANDS = [
    ("set", "shown:text", 'plain "quoted" \\ back\tslash é\x01'),
    ("get", "shown:text"),
    ("get", "shown:missing"),
    ("strlen", "shown:text"),
    ("hgetall", "shown:hash"),
    ("hgetall", "shown:missing"),
    ("lrange", "shown:missing", "0", "-1"),
    ("nonsense",),
    ("hget", "shown:text", "field"),
    ("eval", "return {1, {2, {'three', false}, {}}, 'four', redis.status_reply('FINE')}", "0"),
    ("eval", "local t = {} for i = 1, 11 do t[i] = {i, 'x'} end return t", "0"),
]


@pytest.fixture
def small_client_only(monkeypatch):
    monkeypatch.setattr(cli_client, "find_redis_cli", lambda *, tls=False: None)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_small_client_prints_what_redis_cli_prints(redis_server, words, terminal):
    ask(redis_server.url, *COMMANDS[0])
    ask(redis_server.url, "hset", "shown:hash", "status", "running", "result", '{"a":[1,2]}')
    environ = {**os.environ, "FAKETTY": "1"} if terminal else os.environ
    target = parse_address(redis_server.url)
    command = [redis_cli_path(), *redis_cli_arguments(target), *words]
    real = subprocess.run(command, env=environ, capture_output=True, check=True).stdout

    reply = ask(redis_server.url, *words)

    shown = formatted(reply).encode() if terminal else raw(reply)
    assert shown.rstrip(b"\n") == real.rstrip(b"\n")


def test_command_of_the_product_runs_the_real_redis_cli_on_an_embedded_store(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(cli_client, "find_redis_cli", lambda *, tls=False: redis_cli_path())
    address = parse_address("embedded://", cwd=tmp_path)

    assert run_redis_cli(address, ["set", "key", "value"]) == 0
    assert run_redis_cli(address, ["get", "key"]) == 0

    assert capfd.readouterr().out == "OK\nvalue\n"
    assert not (tmp_path / ".graphflow" / "redis.sock").exists()


def test_without_redis_cli_the_small_client_answers(tmp_path, capfdbinary, small_client_only):
    with EmbeddedServer(tmp_path / ".graphflow"):
        address = parse_address("embedded://", cwd=tmp_path)
        assert run_redis_cli(address, ["set", "key", "välue"]) == 0
        assert run_redis_cli(address, ["get", "key"]) == 0
        assert run_redis_cli(address, ["get"]) == 1

    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines[:2] == ["OK", "välue"]
    assert lines[2].startswith("ERR wrong number of arguments")


def test_small_client_scans_keys_by_pattern(redis_server, capfdbinary, small_client_only):
    for number in range(2500):
        ask(redis_server.url, "set", f"scanned:{number}", "x")

    assert run_redis_cli(parse_address(redis_server.url), ["--scan", "--pattern", "scanned:*"]) == 0

    found = capfdbinary.readouterr().out.decode().split()
    assert sorted(found) == sorted(f"scanned:{number}" for number in range(2500))


def test_small_client_reads_commands_from_a_pipe(redis_server, capfdbinary, small_client_only, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("set piped 'two words'\n\nget piped\nquit\nget never\n"))

    assert run_redis_cli(parse_address(redis_server.url), []) == 0

    assert capfdbinary.readouterr().out == b"OK\ntwo words\n"


def test_password_is_used_and_never_an_argument(small_client_only, capfd, monkeypatch):
    with RealServer(options={"requirepass": "hunter2"}) as server:
        address = parse_address(server.url.replace("unix://", "unix://:hunter2@") + "?db=3")
        assert run_redis_cli(address, ["set", "key", "small"]) == 0
        monkeypatch.setattr(cli_client, "find_redis_cli", lambda *, tls=False: redis_cli_path())
        assert run_redis_cli(address, ["get", "key"]) == 0
        with pytest.raises(AccessDenied):
            Conversation(parse_address(server.url.replace("unix://", "unix://:wrong@")))

    captured = capfd.readouterr()
    assert captured.out == "OK\nsmall\n"
    assert "hunter2" not in " ".join(redis_cli_arguments(address))


def test_redis_cli_is_led_to_every_kind_of_address():
    def arguments(url: str) -> str:
        return " ".join(redis_cli_arguments(parse_address(url)))

    assert arguments("redis://h:7/2") == "-h h -p 7 -n 2"
    assert arguments("unix:///run/r.sock") == "-s /run/r.sock"
    assert arguments("redis://me:pw@h") == "-h h -p 6379 --user me"
    assert (
        arguments("rediss://h?ssl_ca_certs=ca.pem&ssl_cert_reqs=none")
        == "-h h -p 6379 --tls --cacert ca.pem --insecure"
    )


def test_store_that_is_not_there_or_not_shared_is_an_error(tmp_path, small_client_only):
    with pytest.raises(StoreUnreachable):
        run_redis_cli(Address("unix", path=tmp_path / "none.sock"), ["ping"])
    with pytest.raises(InvalidAddress, match="memory:// lives inside one process"):
        run_redis_cli(parse_address("memory://"), ["ping"])


def ask(url: str, *words: str):
    with Conversation(parse_address(url)) as conversation:
        return conversation.ask(*words)
