import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from graphflow.errors import InvalidAddress
from graphflow.server import address as address_module
from graphflow.server.address import Address, find_address, masked_url, masked_words, parse_address, ping

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", Address("tcp", host="localhost", port=6379)),
        ("redis://example.org", Address("tcp", host="example.org", port=6379)),
        ("valkey://example.org:7000/3", Address("tcp", host="example.org", port=7000, db=3)),
        ("redis://example.org?db=2", Address("tcp", host="example.org", port=6379, db=2)),
        ("redis://:pw@h:1", Address("tcp", host="h", port=1, password="pw")),
        ("redis://me:p%40w%2F%23@h:1/0", Address("tcp", host="h", port=1, username="me", password="p@w/#")),
        ("redis://[::1]:7000/1", Address("tcp", host="::1", port=7000, db=1)),
        ("rediss://h", Address("tls", host="h", port=6379)),
        (
            "valkeys://h?ssl_cert_reqs=none",
            Address("tls", host="h", port=6379, tls=(("ssl_cert_reqs", "none"),)),
        ),
        ("unix:///run/redis.sock", Address("unix", path=Path("/run/redis.sock"))),
        (
            "unix://me:pw@/run/r.sock?db=4",
            Address("unix", path=Path("/run/r.sock"), db=4, username="me", password="pw"),
        ),
        ("unix:///run/a%20b.sock", Address("unix", path=Path("/run/a b.sock"))),
        ("embedded:///data/project", Address("embedded", path=Path("/data/project/.graphflow"))),
        ("embedded:///data/.graphflow", Address("embedded", path=Path("/data/.graphflow"))),
        ("embedded://", Address("embedded", path=Path("/srv/here/.graphflow"))),
        ("embedded:///home/me@corp", Address("embedded", path=Path("/home/me@corp/.graphflow"))),
        ("unix:///home/me%40corp/r.sock", Address("unix", path=Path("/home/me@corp/r.sock"))),
        ("memory://", Address("memory")),
        ("memory://one", Address("memory", name="one")),
        ("REDIS://h", Address("tcp", host="h", port=6379)),
    ],
)
def test_every_accepted_form_is_read_and_reads_back_from_its_own_url(url, expected):
    parsed = parse_address(url, cwd=Path("/srv/here"))

    assert parsed == expected
    assert parse_address(parsed.url) == expected


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        (f"redis://:{SECRET}@h", "redis://***@h:6379/0"),
        (f"valkeys://me:{SECRET}@h:1/2", "rediss://***@h:1/2"),
        (f"redis://h?password={SECRET}", "redis://***@h:6379/0"),
        (f"unix://:{SECRET}@/run/r.sock?db=1", "unix://***@/run/r.sock?db=1"),
        ("redis://[::1]", "redis://[::1]:6379/0"),
        ("redis://me@h", "redis://***@h:6379/0"),
        ("memory://x", "memory://x"),
    ],
)
def test_printed_address_stars_its_login(url, printed):
    parsed = parse_address(url)

    assert parsed.masked == str(parsed) == printed
    assert SECRET not in repr(parsed)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "no scheme"),
        ("localhost:6379", "no scheme"),
        ("http://h", "its scheme is not known"),
        ("redsi://h", "did you mean redis://?"),
        ("redis://h:port", "its port"),
        ("redis://h:0", "its port"),
        ("redis://h:70000", "its port"),
        ("redis://h/first", "its database"),
        ("redis://h/-1", "its database"),
        ("redis://h?db=1&socket_timeout=3", "option 2 after its ? is not known"),
        ("redis://h?ssl_ca_certs=x", "option 1 after its ?"),
        ("redis://h?PASSWORD=x", "did you mean password?"),
        ("redis://h h", "its host"),
        ("redis://u@x:pw@h", "before the password's colon"),
        ("redis://:pw%00@h", "no text"),
        ("unix://:pw@/run/a@b.sock", "%40"),
        ("embedded:///:pw@/srv", "a folder has no login"),
        ("memory://me:pw@h", "letters, digits"),
        ("unix://run/redis.sock", "absolute path"),
        ("unix://", "absolute path"),
        ("embedded://here", "must be absolute"),
        ("redis://[::1", "not a well-formed URL"),
    ],
)
def test_bad_url_is_refused_with_its_reason_and_the_accepted_forms(url, reason):
    with pytest.raises(InvalidAddress) as caught:
        parse_address(url)

    assert reason in str(caught.value)
    for scheme in ("redis://", "rediss://", "valkey://", "unix://", "embedded://", "memory://"):
        assert scheme in str(caught.value).partition("Accepted forms")[2]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        (f"rediss://me:{SECRET}@h:1/2", "rediss://***@h:1/2"),
        (f"redis://h?password={SECRET}", "redis://***@h:6379/0"),
        (f"redis://me:{SECRET}", "redis://***"),
        (f"me:{SECRET}@h", "***"),
        (f"http://me:{SECRET}@h", "***"),
        ("embedded://", "embedded://"),
        ("memory://x", "memory://x"),
    ],
)
def test_url_is_shown_masked_and_one_that_cannot_be_read_by_its_scheme_alone(url, shown):
    assert masked_url(url) == shown


def test_words_of_a_command_are_shown_without_secrets():
    words = [
        "run",
        "x.py",
        "--url",
        f"me:{SECRET}@h",
        f"--url=redis://:{SECRET}@h",
        f"db=pg://u:{SECRET}@h/x",
    ]

    assert list(masked_words(words)) == [
        *("run", "x.py", "--url", "***", "--url=redis://***@h:6379/0", "db=pg://***@h/x")
    ]


def test_argument_comes_before_environment_and_folder(tmp_path):
    (tmp_path / ".graphflow").mkdir()
    environ = {"GRAPHFLOW_REDIS_URL": "redis://from-environment"}

    assert find_address("redis://argument", environ, tmp_path).host == "argument"
    assert find_address(None, environ, tmp_path).host == "from-environment"
    assert find_address(None, {}, tmp_path) == Address("embedded", path=tmp_path / ".graphflow")


def test_bad_url_from_the_environment_names_the_variable(tmp_path):
    with pytest.raises(InvalidAddress, match="GRAPHFLOW_REDIS_URL"):
        find_address(None, {"GRAPHFLOW_REDIS_URL": "nonsense"}, tmp_path)


def test_embedded_url_of_the_environment_means_the_working_folder(tmp_path):
    found = find_address(None, {"GRAPHFLOW_REDIS_URL": "embedded://"}, tmp_path)

    assert found.path == tmp_path / ".graphflow"


@pytest.mark.parametrize("reply", [b"+PONG\r\n", b"-LOADING Redis is loading the dataset in memory\r\n"])
def test_local_redis_that_answers_is_used_before_a_new_embedded_server(tmp_path, monkeypatch, reply):
    with listener(reply) as port:
        monkeypatch.setattr(address_module, "LOCAL_URL", f"redis://localhost:{port}/0")

        assert find_address(None, {}, tmp_path) == Address("tcp", host="localhost", port=port)


@pytest.mark.parametrize(
    "reply", [b"-NOAUTH Authentication required.\r\n", b"HTTP/1.1 400 Bad Request\r\n", b""]
)
def test_what_is_no_usable_redis_on_the_port_is_passed_over(tmp_path, monkeypatch, reply):
    with listener(reply) as port:
        monkeypatch.setattr(address_module, "LOCAL_URL", f"redis://localhost:{port}/0")

        assert find_address(None, {}, tmp_path).kind == "embedded"


def test_without_anything_a_new_embedded_server_in_the_working_folder_is_meant(tmp_path, monkeypatch):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        monkeypatch.setattr(address_module, "LOCAL_URL", f"redis://127.0.0.1:{reserved.getsockname()[1]}/0")

        assert find_address(None, {}, tmp_path) == Address("embedded", path=tmp_path / ".graphflow")
    assert not (tmp_path / ".graphflow").exists()


def test_silent_listener_is_given_up_after_the_timeout():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()

        assert ping(silent.getsockname(), timeout_seconds=0.05) is None


@contextmanager
def listener(reply: bytes):
    """A port of this machine that answers `reply` to the first who asks."""
    server = socket.create_server(("localhost", 0))
    server.settimeout(5)

    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(reply)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        thread.join()
        server.close()
