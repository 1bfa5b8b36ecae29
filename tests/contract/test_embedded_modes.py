"""An embedded folder is for its owner alone, whatever it was before."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphflow.server import folder_modes
from graphflow.server.address import parse_address
from graphflow.server.embedded import EmbeddedServer
from graphflow.server.folder_modes import close_to_others, open_to_others
from graphflow.store.checkup import Checkup, check_up
from tests.contract.embedded_users import command
from tests.helpers import run


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def found_open(folder: Path) -> list[str]:
    """What others may do something with; .gitignore holds no secret."""
    return [
        path.name
        for path in [folder, *folder.rglob("*")]
        if path.name != ".gitignore" and stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]


def opened_wide(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def filled(folder: Path) -> None:
    with EmbeddedServer(folder) as server:
        command(server, "SET", "key", "value")
        command(server, "SAVE")


def test_nothing_in_a_folder_is_open_to_other_users(folder: Path, open_umask: None) -> None:
    folder.mkdir(mode=0o755)

    with EmbeddedServer(folder) as server:
        command(server, "SET", "key", "value")
        command(server, "SAVE")
        assert (folder / "dump.rdb").exists()
        assert found_open(folder) == []

    assert found_open(folder) == []


def test_short_folder_of_a_socket_is_not_open_to_other_users(tmp_path: Path, open_umask: None) -> None:
    with EmbeddedServer(tmp_path / ("long" * 30) / ".graphflow") as server:
        assert found_open(Path(server.start()).parent) == []


def test_what_was_open_before_is_closed_by_the_next_user(folder: Path) -> None:
    filled(folder)
    opened_wide(folder)
    assert len(found_open(folder)) > 5

    with EmbeddedServer(folder) as server:
        assert command(server, "GET", "key") == ["value"]
        assert found_open(folder) == []


def test_closing_follows_no_link_and_leaves_other_things_alone(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o700)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (elsewhere / "file").write_text("")
    (elsewhere / "file").chmod(0o644)
    (folder / "dump.rdb").symlink_to(elsewhere / "file")
    (folder / "appendonlydir").symlink_to(elsewhere)
    (folder / "notes").write_text("")
    (folder / "notes").chmod(0o644)

    close_to_others(folder)

    for path, mode in ((elsewhere, 0o755), (elsewhere / "file", 0o644), (folder / "notes", 0o644)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_folder_that_is_a_link_to_a_shared_one_has_its_own_files_closed(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (tmp_path / ".graphflow").symlink_to(shared)

    filled(tmp_path / ".graphflow")
    opened_wide(shared)
    filled(tmp_path / ".graphflow")

    assert found_open(shared) == ["shared"]


def test_doctor_closes_what_is_open_and_tells_of_it_once(folder: Path) -> None:
    filled(folder)
    opened_wide(folder)
    address = parse_address(f"embedded://{folder}")

    first = run(check_up(address, "gf"))
    second = run(check_up(address, "gf"))

    assert folder in first.closed
    assert folder / "server.log" in first.closed
    assert (first.open_to_others, first.problems) == ([], [])
    assert (second.closed, second.open_to_others, second.problems) == ([], [], [])


def test_doctor_tells_what_it_cannot_close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(folder)
    opened_wide(folder)

    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(folder_modes.Path, "chmod", refuse)
    found = run(check_up(parse_address(f"embedded://{folder}"), "gf"))

    assert folder not in found.closed
    assert found.open_to_others == open_to_others(folder)
    assert f"other users can read {folder} and" in found.problems[0]
    assert f"chmod -R go= {folder}" in found.problems[0]


def test_doctor_looks_at_the_modes_of_embedded_folders_only() -> None:
    assert Checkup("redis://localhost", "gf").problems == []
