"""What is said where this process may not use a folder, or where no embedded folder can be."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graphflow.errors import EmbeddedServerError, InvalidAddress, StoreError
from graphflow.server.address import find_address, parse_address
from graphflow.server.embedded import EmbeddedServer
from graphflow.server.embedded_folder import folder_errors, holds_store
from tests.contract.embedded_users import command

#: As far as this project knows, nobody's.
STRANGER = 65534
LOOKS: list[Callable[[Path], object]] = [
    holds_store,
    lambda folder: EmbeddedServer(folder).start(),
    lambda folder: EmbeddedServer(folder).redis_cli_command(),
]


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user may look into; that of pytest is for its owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="gf-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def filled(folder: Path) -> None:
    with EmbeddedServer(folder) as server:
        command(server, "SET", "key", "value")
        command(server, "SAVE")


@pytest.mark.parametrize("look", LOOKS)
def test_folder_of_another_user_is_an_error_that_says_whose_it_is(
    public_folder: Path, look: Callable[[Path], object]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = public_folder / ".graphflow"
    filled(folder)

    said = as_stranger(lambda: look(folder))

    assert "EmbeddedServerError" in said
    assert f"cannot use the embedded store in {folder}: Permission denied" in said


def as_stranger(look: Callable[[], object]) -> str:
    """What it comes to in a process of another user."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setuid(STRANGER)
            look()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as told:
        said = told.read().decode()
    os.waitpid(child, 0)
    return said


def test_error_on_what_belongs_to_another_user_names_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)

    with (
        pytest.raises(EmbeddedServerError, match=f"Permission denied, it belongs to user {owner};"),
        folder_errors(tmp_path),
    ):
        raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("look", LOOKS)
def test_loop_of_links_is_an_error(folder: Path, look: Callable[[Path], object]) -> None:
    folder.symlink_to(folder)

    with pytest.raises(EmbeddedServerError, match=r"cannot use the embedded store in .*symbolic links"):
        look(folder)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (os.fsdecode(b"caf\xe9"), "its path is not UTF-8"),
        ("\ud800", "its path is not UTF-8"),
        ("nul\0", "its path holds a NUL"),
        ("long" * 100, "too long"),
    ],
)
def test_path_that_no_store_can_have_is_an_error(
    tmp_path: Path, look: Callable[[Path], object], name: str, reason: str
) -> None:
    with pytest.raises(EmbeddedServerError, match=reason) as caught:
        look(tmp_path / name / ".graphflow")

    assert str(caught.value).encode()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("embedded:///srv/caf%E9", "not UTF-8"),
        ("embedded:///srv/\udce9", "not UTF-8"),
        ("embedded:///srv/a%00b", "a character that is no text"),
        ("unix:///srv/a%00b.sock", "a character that is no text"),
    ],
)
def test_url_with_a_path_that_no_store_can_have_is_refused(url: str, reason: str) -> None:
    with pytest.raises(InvalidAddress, match=reason):
        parse_address(url)


def test_working_folder_that_is_not_utf8_is_refused_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)

    with pytest.raises(InvalidAddress, match=r"the path of its folder, .* is not UTF-8") as caught:
        parse_address("embedded://")
    assert str(caught.value).encode()
    assert parse_address("redis://there").host == "there"


def test_removed_working_folder_is_an_error_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    for ask in (lambda: parse_address("embedded://"), lambda: find_address("embedded://", {})):
        with pytest.raises(InvalidAddress, match="there is no working folder"):
            ask()
    with pytest.raises(StoreError, match=r"No such file"):
        EmbeddedServer(Path(".graphflow"))
    assert find_address(None, {"GRAPHFLOW_REDIS_URL": "redis://there"}).host == "there"
    assert parse_address(f"embedded://{tmp_path}").path == tmp_path / ".graphflow"


@pytest.mark.parametrize("name", ["server.json", "start.lock", "users.lock", "server.lock"])
def test_folder_in_the_place_of_a_file_is_an_error(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)

    with pytest.raises(EmbeddedServerError, match=r"[Ii]s a directory"):
        EmbeddedServer(folder).start()
