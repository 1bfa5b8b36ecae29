"""Embedded folders that are copied, moved, restored or made by hand: a record is believed about its own folder only."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graphflow.errors import EmbeddedServerError
from graphflow.server.address import ping
from graphflow.server.embedded import EmbeddedServer
from graphflow.server.file_lock import FileLock
from tests.contract.embedded_users import StartUser, command, lives, pid_of, wait_ready
from tests.helpers import wait_until
from tests.servers import RealServer

User = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def long_folder(tmp_path: Path) -> Path:
    """One whose path is too long for a socket in it."""
    return tmp_path / ("long" * 30) / ".graphflow"


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


def copy(original: Path, to: Path) -> Path:
    """As people do; sockets included."""
    subprocess.run(["cp", "-r", str(original), str(to)], check=True)
    return to


def write_record(folder: Path, named: Path, *, forged: bool) -> None:
    """A record that names a socket, for this very folder or, as in one that came from elsewhere, for none."""
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, object] = {"engine": "valkey", "version": "0.0.0", "socket": str(named)}
    if forged:
        record |= {"device": folder.stat().st_dev, "inode": folder.stat().st_ino}
    (folder / "server.json").write_text(json.dumps(record))


# copies


def test_using_a_copied_folder_leaves_the_original_as_it_is(folder: Path, tmp_path: Path) -> None:
    with EmbeddedServer(folder) as original:
        command(original, "SET", "key", "value")
        command(original, "CONFIG", "SET", "appendfsync", "always")
        copied = copy(folder, tmp_path / "copy")

        with EmbeddedServer(copied) as server:
            assert pid_of(copied) != pid_of(folder)
            assert command(server, "GET", "key") == ["value"]
            command(server, "SET", "key", "other")
            assert command(original, "GET", "key") == ["value"]

        assert ping(str(folder / "redis.sock")) == "+PONG"


def test_using_a_copy_of_a_folder_with_a_long_path_leaves_the_original_as_it_is(
    long_folder: Path, tmp_path: Path
) -> None:
    with EmbeddedServer(long_folder) as original:
        copied = copy(long_folder, tmp_path / "copy")

        with EmbeddedServer(copied) as server:
            command(server, "SET", "key", "of the copy")

        assert command(original, "DBSIZE") == ["0"]


def test_processes_that_race_in_a_copied_folder_get_one_server(
    folder: Path, tmp_path: Path, start_user: StartUser
) -> None:
    with EmbeddedServer(folder):
        copied = copy(folder, tmp_path / "copy")
        for process in [start_user(copied, wait_for_ready=False) for _ in range(3)]:
            wait_ready(process)

        assert (copied / "server.log").read_text().count("Server initialized") == 2
        assert ping(str(folder / "redis.sock")) == "+PONG"


def test_folder_restored_from_a_copy_has_its_data(folder: Path, tmp_path: Path) -> None:
    with EmbeddedServer(folder) as server:
        command(server, "SET", "key", "value")
    backup = copy(folder, tmp_path / "backup")
    shutil.rmtree(folder)
    copy(backup, folder)

    with EmbeddedServer(folder) as server:
        assert command(server, "GET", "key") == ["value"]


# records that name what is not theirs


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("name", ["foreign.sock", "graphflow-foreign/redis.sock"])
def test_socket_that_a_record_names_is_left_alone(
    folder: Path, tmp_path: Path, name: str, answers: bool, forged: bool
) -> None:
    foreign = tmp_path / name
    foreign.parent.mkdir(mode=0o700, exist_ok=True)
    write_record(folder, foreign, forged=forged)
    with listening(foreign) as listener:
        if not answers:
            listener.close()

        with EmbeddedServer(folder) as server:
            assert command(server, "PING") == ["PONG"]

        assert foreign.is_socket()


@pytest.mark.parametrize("forged", [False, True])
def test_server_that_a_record_names_is_neither_used_nor_shut_down(
    folder: Path, user: User, forged: bool
) -> None:
    with RealServer() as foreign:
        user()
        assert foreign.socket_path is not None
        write_record(folder, Path(foreign.socket_path), forged=forged)

        server = EmbeddedServer(folder)
        assert server.start() == str(folder / "redis.sock")
        assert str(folder / "redis.sock") in server.redis_cli_command()
        server.stop()

        assert foreign.ping() == "+PONG"


def test_short_folder_of_another_store_is_left_alone(long_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / ("more" * 30) / ".graphflow"
    with EmbeddedServer(other) as owner:
        theirs = owner.start()
        write_record(long_folder, Path(theirs), forged=True)

        with EmbeddedServer(long_folder) as server:
            assert server.start() != theirs

        assert ping(theirs) == "+PONG"
    write_record(long_folder, Path(theirs), forged=True)
    with EmbeddedServer(long_folder):
        pass


def test_record_cannot_make_another_file_go(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    write_record(folder, precious, forged=True)

    with EmbeddedServer(folder):
        assert precious.read_text() == "kept"


def test_short_folder_of_a_crashed_server_goes_at_the_next_start(long_folder: Path) -> None:
    server = EmbeddedServer(long_folder)
    before = Path(server.start())
    crashed = pid_of(long_folder)
    os.kill(crashed, signal.SIGKILL)
    wait_until(lambda: not lives(crashed))
    assert before.is_socket()

    after = Path(server.start())

    assert after != before
    assert not before.parent.exists()
    server.stop()
    assert not after.parent.exists()


# what lies in the place of the folder's own socket


def test_server_that_answers_without_its_lock_is_left_alone_and_told_of(folder: Path, user: User) -> None:
    other = user()
    (folder / "server.lock").unlink()

    with pytest.raises(EmbeddedServerError, match=r"its lock on .*server\.lock is lost.*shutdown"):
        EmbeddedServer(folder).start()

    assert ping(str(folder / "redis.sock")) == "+PONG"
    other.communicate("")
    assert not (folder / "redis.sock").exists()


def test_what_is_no_socket_is_not_removed(folder: Path) -> None:
    folder.mkdir()
    (folder / "redis.sock").write_text("kept")

    with pytest.raises(EmbeddedServerError, match="is no socket of a server; move it away"):
        EmbeddedServer(folder).start()

    assert (folder / "redis.sock").read_text() == "kept"


def test_link_in_the_place_of_the_socket_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    with listening(tmp_path / "foreign.sock"):
        (folder / "redis.sock").symlink_to(tmp_path / "foreign.sock")

        with pytest.raises(EmbeddedServerError, match="is no socket of a server"):
            EmbeddedServer(folder).start()

        assert (tmp_path / "foreign.sock").is_socket()


# moves


def test_moved_folder_keeps_its_data(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "A" / ".graphflow") as server:
        command(server, "SET", "key", "value")
    (tmp_path / "A").rename(tmp_path / "B")

    with EmbeddedServer(tmp_path / "B" / ".graphflow") as server:
        assert command(server, "GET", "key") == ["value"]


@pytest.mark.parametrize("name", ["A", "long" * 30])
def test_server_of_a_folder_that_moves_is_used_and_ended_in_the_new_place(
    tmp_path: Path, start_user: StartUser, name: str
) -> None:
    other = start_user(tmp_path / name / ".graphflow")
    pid = pid_of(tmp_path / name / ".graphflow")
    (tmp_path / name).rename(tmp_path / "B")
    moved = tmp_path / "B" / ".graphflow"

    with EmbeddedServer(moved) as server:
        assert pid_of(moved) == pid
        other.communicate("")
        assert command(server, "PING") == ["PONG"]

    assert not lives(pid)
    assert not (moved / "redis.sock").exists()
    assert not (moved / "server.pid").exists()


def test_process_goes_along_when_the_folder_around_its_store_is_moved(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "A" / ".graphflow")
    server.start()
    moved = tmp_path / "B" / ".graphflow"
    pid = pid_of(server.folder)
    (tmp_path / "A").rename(tmp_path / "B")

    assert server.start() == str(moved / "redis.sock")

    assert pid_of(moved) == pid
    assert not (tmp_path / "A").exists()
    server.stop()
    assert not lives(pid)


def test_store_that_was_moved_away_makes_room_for_an_empty_one(folder: Path, tmp_path: Path) -> None:
    server = EmbeddedServer(folder)
    server.start()
    command(server, "SET", "key", "value")
    folder.rename(tmp_path / "away")

    server.start()

    assert command(server, "DBSIZE") == ["0"]
    server.stop()


def test_server_of_a_moved_folder_leaves_what_came_after_it_alone(
    tmp_path: Path, start_user: StartUser
) -> None:
    folder = tmp_path / "A" / ".graphflow"
    other = start_user(folder)
    pid = pid_of(folder)
    (tmp_path / "A").rename(tmp_path / "B")
    with EmbeddedServer(folder) as server:
        other.communicate("")
        wait_until(lambda: not lives(pid))

        assert ping(str(folder / "redis.sock")) == "+PONG"
        assert pid_of(folder) == int(dict_of(command(server, "INFO", "server"))["process_id"])


def dict_of(lines: list[str]) -> dict[str, str]:
    return dict(line.split(":", 1) for line in lines if ":" in line)


# records that cannot be read


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '"redis.sock"',
        "null",
        "[" * 100_000,
        '{"engine": "valkey", "version": "9.1.2"}',
        '{"engine": 5, "version": "9.1.2", "socket": "redis.sock"}',
        '{"engine": "valkey", "version": 9.1, "socket": "redis.sock"}',
        '{"engine": "valkey", "version": "newest", "socket": "redis.sock"}',
        '{"engine": "valkey", "version": "9.1.2", "socket": ["redis.sock"]}',
        '{"engine": "valkey", "version": "9.1.2", "socket": "redis.sock", "inode": "7"}',
        '{"engine": "valkey", "version": "9.1.2", "socket": "redis.sock", "device": true}',
    ],
)
def test_record_that_cannot_be_read_is_an_error_that_names_the_file(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "server.json").write_text(text)

    for use in (EmbeddedServer.start, EmbeddedServer.redis_cli_command):
        with pytest.raises(EmbeddedServerError, match=r"cannot read .*server\.json.*restore it"):
            use(EmbeddedServer(folder))


@pytest.mark.parametrize("named", ["/tmp/\0/redis.sock", "/tmp/\ud800/redis.sock", "../redis.sock", ""])
def test_record_that_names_what_is_no_path_is_not_believed(folder: Path, named: str) -> None:
    folder.mkdir()
    identity = {"device": folder.stat().st_dev, "inode": folder.stat().st_ino}
    (folder / "server.json").write_text(
        json.dumps({"engine": "valkey", "version": "0.0.0", "socket": named, **identity})
    )

    with EmbeddedServer(folder) as server:
        assert server.start() == str(folder / "redis.sock")


@pytest.mark.parametrize(
    "name",
    [
        "server.new",
        "server.log",
        ".gitignore",
        "start.lock",
        "users.lock",
        "server.lock",
        "caretaker.lock",
        "appendonlydir",
    ],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_link_that_came_with_a_folder_leads_nothing_of_the_store_elsewhere(
    tmp_path: Path, name: str, is_there: bool
) -> None:
    folder, elsewhere = tmp_path / ".graphflow", tmp_path / "elsewhere"
    folder.mkdir()
    if is_there:
        elsewhere.write_text("precious")
    (folder / name).symlink_to(elsewhere)

    with contextlib.suppress(EmbeddedServerError), EmbeddedServer(folder):
        assert name == ".gitignore", "the store may be used all the same, nothing being written there"

    assert (elsewhere.read_text() if is_there else elsewhere.exists()) == ("precious" if is_there else False)
    assert name == "server.lock" or not FileLock(folder / "server.lock").is_held_elsewhere(), (
        "a server was left behind"
    )


def test_files_that_are_not_the_stores_stay_as_they_are_where_the_folder_is_a_link(tmp_path: Path) -> None:
    project, folder = tmp_path / "project", tmp_path / ".graphflow"
    project.mkdir()
    for name in ("server.py", "poetry.lock"):
        (project / name).write_text("")
        (project / name).chmod(0o644)
    folder.symlink_to(project)

    with EmbeddedServer(folder):
        pass

    assert {name: (project / name).stat().st_mode & 0o777 for name in ("server.py", "poetry.lock")} == {
        "server.py": 0o644,
        "poetry.lock": 0o644,
    }
    assert not (project / ".gitignore").exists()
