"""Stored runs go on as they always did: runs that earlier code wrote, on every server, whatever is done with them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest
import redis

from graphflow.server.address import parse_address
from graphflow.server.connection import open_sync_client
from tests.replay.keep import FOLDER
from tests.replay.kept_runs import KEPT
from tests.replay.outcomes import actions_for, as_text, outcome_of, printed, recorded_items
from tests.replay.stored_text import Command, commands_of, load, older, page_of, read_commands
from tests.servers import ENGINES, RealServer

STORES = [pytest.param(folder, id=folder.name) for folder in sorted(FOLDER.iterdir())]
RUNS = [pytest.param(dump, id=f"{dump.parent.name}-{dump.stem}") for dump in sorted(FOLDER.glob("*/*.dump"))]


@pytest.fixture(scope="module", params=ENGINES)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that nothing else uses."""
    with RealServer(request.param) as server:
        yield server.url


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    """A client of the server, on which nothing is stored."""
    with empty_store(url) as client:
        yield client


@contextmanager
def empty_store(url: str) -> Iterator[redis.Redis]:
    client = open_sync_client(parse_address(url), role="test")
    client.flushall()
    yield client
    client.close()


@pytest.mark.parametrize("dump", RUNS)
def test_kept_run_comes_to_what_it_came_to_when_it_was_kept(
    dump: Path, url: str, client: redis.Redis
) -> None:
    check_outcomes(dump, read_commands(dump), url, client)


@pytest.mark.long
@pytest.mark.parametrize("dump", RUNS)
def test_kept_run_comes_to_the_same_when_it_is_a_year_older(
    dump: Path, url: str, client: redis.Redis
) -> None:
    check_outcomes(dump, older(read_commands(dump), days=365), url, client)


@pytest.mark.parametrize("dump", RUNS)
def test_kept_run_is_stored_on_every_server_as_its_page_says(dump: Path, url: str) -> None:
    commands, page = read_commands(dump), dump.with_suffix(".txt").read_text()

    assert page_of(commands) == page
    for each in (url, f"memory://{uuid.uuid4().hex}"):
        with empty_store(each) as client:
            load(client, commands)
            assert page_of(commands_of(client)) == page


@pytest.mark.parametrize("folder", STORES)
def test_kept_runs_are_listed_together(folder: Path, url: str, client: redis.Redis) -> None:
    dumps = sorted(folder.glob("*.dump"))
    for dump in dumps:
        load(client, read_commands(dump))

    listed = [line.split()[0] for line in printed("list", url, "-n", "100")[1:]]

    created = client.zrevrange("gf:runs", 0, -1)
    assert listed == created
    assert {dump.stem for dump in dumps} <= set(listed)


def test_every_kept_run_has_its_graph_and_all_its_files() -> None:
    files = {(path.parent.name, path.stem, path.suffix) for path in FOLDER.glob("*/*")}

    assert {stem for _, stem, _ in files} == set(KEPT)
    assert files == {(folder, stem, kind) for folder, stem, _ in files for kind in (".dump", ".txt", ".json")}


@pytest.mark.parametrize("dump", RUNS)
def test_kept_run_names_no_moment_that_a_server_would_find_past_one_day(dump: Path) -> None:
    for verb, key, *rest in read_commands(dump):
        if verb == "PEXPIREAT" or (verb == "HSET" and rest[0] in ("expires", "deadline")):
            assert set(rest[-1]) == {"from_now"}, f"{verb} {key} {rest}"


def check_outcomes(dump: Path, commands: list[Command], url: str, client: redis.Redis) -> None:
    name, expected = dump.stem, _outcomes(dump)
    assert list(expected) == actions_for(name, commands), "other things are tried than those that are kept"
    for action in expected:
        found = outcome_of(name, action, commands, url, client)
        _check_same(dump, action, found)
        if action in ("resume", "retry"):
            again = set(recorded_items(name, commands)) & set(found["called"])
            assert not again, f"{action} of {name} runs items again of which there are records: {again}"


def _comparable(action: str, told: object) -> list[str]:
    """Line by line. Which wait is the oldest is named, but what is tried again begins its waits together."""
    text = as_text(told)
    if action.startswith("retry"):
        text = re.sub(
            r'"error": ".* waits for the signal .* \((\d+) more wait\).*"', r'"error": "\1 more wait"', text
        )
    return text.splitlines()


def _outcomes(dump: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dump.with_suffix(".json").read_text())
    return found


def _check_same(dump: Path, action: str, found: object) -> None:
    """Fail with the lines that differ."""
    then, now = (_comparable(action, told) for told in (_outcomes(dump)[action], found))
    difference = "\n".join(unified_diff(then, now, "then", "now", lineterm="", n=2))
    if difference:
        what = f"{action} of the run {dump.stem}, kept by {dump.parent.name}"
        pytest.fail(
            f"{what}, comes to something else; see tests/replay/README.md\n{difference}", pytrace=False
        )
