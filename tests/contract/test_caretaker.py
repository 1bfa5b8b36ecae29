"""The server of a folder ends when its last user is gone, however that one ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from graphflow.server import embedded
from graphflow.server.embedded import EmbeddedServer
from tests.contract.embedded_users import StartUser, caretakers_of, command, lives, pid_of, wait_ready
from tests.helpers import wait_until

User = Callable[..., subprocess.Popen[str]]

FORK_THAT_EXITS_AT_ONCE = """
server.stop()
child = os.fork()
if not child:
    server = EmbeddedServer(server.folder)
    server.start()
    print((server.folder / "server.pid").read_text().strip(), flush=True)
    sys.stdin.read()
    os._exit(0)
os.waitpid(child, 0)
"""


def wait_gone(pid: int) -> None:
    wait_until(lambda: not lives(pid), what=f"the end of server {pid}")


def test_forked_child_that_ends_by_exit_at_once_leaves_no_server(folder: Path, user: User) -> None:
    process = user(FORK_THAT_EXITS_AT_ONCE)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert lives(pid)

    process.communicate("")

    wait_gone(pid)
    assert not (folder / "redis.sock").exists()


def test_killed_user_leaves_no_server_and_its_data_is_kept(folder: Path, user: User) -> None:
    victim = user()
    pid = pid_of(folder)
    command(EmbeddedServer(folder), "SET", "key", "value")

    victim.kill()

    wait_gone(pid)
    with EmbeddedServer(folder) as server:
        assert command(server, "GET", "key") == ["value"]


def test_user_who_lives_keeps_the_server_when_another_is_killed(
    folder: Path, tmp_path: Path, start_user: StartUser
) -> None:
    start_user(folder)
    pid = pid_of(folder)
    victims = [start_user(folder)]
    # A server whose caretaker began to look later tells that the first one has looked.
    victims.append(start_user(tmp_path / "other" / ".graphflow"))
    other = pid_of(tmp_path / "other" / ".graphflow")

    for victim in victims:
        victim.kill()

    wait_gone(other)
    assert lives(pid)


def test_user_who_comes_after_a_killed_one_finds_the_server_up(folder: Path, user: User) -> None:
    victim = user()
    pid = pid_of(folder)
    os.kill(caretakers_of(folder)[0], signal.SIGKILL)
    victim.kill()
    victim.wait()

    with EmbeddedServer(folder):
        assert pid_of(folder) == pid

    assert not lives(pid)


def test_server_of_a_deleted_folder_ends_with_its_killed_user(folder: Path, user: User) -> None:
    victim = user()
    pid = pid_of(folder)
    shutil.rmtree(folder)

    victim.kill()

    wait_gone(pid)


def test_six_processes_that_race_get_one_caretaker_which_goes_with_the_server(
    folder: Path, user: User
) -> None:
    processes = [user(wait_for_ready=False) for _ in range(6)]
    for process in processes:
        wait_ready(process)

    assert len(caretakers_of(folder)) == 1
    for process in processes:
        process.communicate("")
    wait_until(lambda: not caretakers_of(folder))


def test_lost_caretaker_is_replaced_by_the_next_user(folder: Path, user: User) -> None:
    first = user()
    lost = caretakers_of(folder)
    os.kill(lost[0], signal.SIGKILL)
    wait_until(lambda: not caretakers_of(folder))

    second = user()

    assert len(caretakers_of(folder)) == 1
    pid = pid_of(folder)
    first.kill()
    second.kill()
    wait_gone(pid)


def test_crashed_server_that_comes_back_has_one_caretaker(folder: Path) -> None:
    with EmbeddedServer(folder) as server:
        crashed = pid_of(folder)
        os.kill(crashed, signal.SIGKILL)
        wait_gone(crashed)

        server.start()

        assert len(caretakers_of(folder)) == 1


@pytest.mark.parametrize("executable", ["/opt/frozen/program", "", None])
def test_program_that_python_is_built_into_is_not_started_as_caretaker(
    folder: Path, monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    monkeypatch.setattr(embedded.sys, "executable", executable)

    with EmbeddedServer(folder) as server:
        assert command(server, "PING") == ["PONG"]
        assert caretakers_of(folder) == []
