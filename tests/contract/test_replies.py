"""Refusals of real servers, met by commands and by scripts, as docs/server-replies.md has them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from redis._parsers.base import BaseParser

from graphflow import Agent, RedisCache, Task
from graphflow.errors import AccessDenied, MissingRight, StoreError
from graphflow.ids import RunId
from graphflow.inputs import Begin, StateSet
from graphflow.server.address import parse_address
from graphflow.server.connection import open_client
from graphflow.server.replies import error_of, error_of_exception, server_words
from graphflow.server.small_client import Conversation
from graphflow.store import scripts
from graphflow.store.redis_store import RedisStore
from tests.acceptance.support import until
from tests.contract.driving import Driver, map_plan, opened
from tests.helpers import run
from tests.replies import COMMAND, Asked, Refusal, fail_to_save, refusals, rows
from tests.servers import ALL_ENGINES, Engine, RealServer

PAGE = Path(__file__).parents[2] / "docs" / "server-replies.md"
RIGHTS = PAGE.with_name("redis.md")
LUA = Path(scripts.__file__).parent / "lua"
ERRORS = {
    "memory is full": "StoreFull",
    "too few replicas": "WritesRefused",
    "the disk cannot be written": "WritesRefused",
    "no password is set": "AccessDenied",
    "wrong password": "AccessDenied",
    "no password was given": "AccessDenied",
    "no right to the command": "MissingRight",
    "no right to the key": "MissingRight",
    "no right to the database": "MissingRight",
    "a script takes long": "StoreBusy",
    "a script was killed": "StoreBusy",
    "it became a replica meanwhile": "StoreBusy",
    "it is a replica": "WritesRefused",
    "it is a replica without its primary": "StoreBusy",
    "it loads its data": "StoreBusy",
    "nobody serves the slot": "ClusterMember",
    "the cluster is down": "ClusterMember",
    "keys of two slots": "ClusterMember",
    "another node's key in a script": "ClusterMember",
}


@cache
def refused_by(engine: Engine) -> list[Refusal]:
    return refusals(engine)


def rows_of_the_page(server: str) -> set[str]:
    """The rows that the page has for a server, with no other server in them."""
    lines = re.findall(
        r"^\| [^|]+ \| (?:command|script) \| [^|]+ \| .*\|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    cells = [line.split(" | ", 3) for line in lines]
    return {
        " | ".join([trouble, way, server, rest])
        for trouble, way, servers, rest in cells
        if server in servers.split(", ")
    }


@pytest.mark.parametrize("engine", ALL_ENGINES)
def test_every_refusal_becomes_the_error_that_says_what_to_do(engine: Engine) -> None:
    found = refused_by(engine)

    assert {(refusal.trouble, refusal.error) for refusal in found} - {*ERRORS.items()} == set()
    assert {refusal.trouble for refusal in found} | {"no right to the database"} == set(ERRORS)


@pytest.mark.parametrize("engine", ALL_ENGINES)
def test_refusal_means_the_same_when_redis_py_has_cut_its_first_word_off(engine: Engine) -> None:
    for refusal in refused_by(engine):
        raised = error_of_exception(BaseParser.parse_error(refusal.reply), "redis://")

        assert type(raised).__name__ == ERRORS[refusal.trouble], refusal


@pytest.mark.parametrize("engine", ALL_ENGINES)
def test_words_in_an_error_are_those_of_the_command_without_the_script(engine: Engine) -> None:
    for refusal in refused_by(engine):
        words = server_words(refusal.reply)

        assert not re.search(r"user_script|running script|^ERR|^-", words), refusal


@pytest.mark.parametrize("engine", ALL_ENGINES)
def test_page_has_what_the_servers_say(engine: Engine) -> None:
    found = refused_by(engine)
    on_page = rows_of_the_page(found[0].server)
    if engine == "current" and not on_page:
        pytest.skip(f"the page was made with another version than {found[0].server}: python -m tests.replies")

    assert set(rows(found)) == on_page


@pytest.mark.parametrize("engine", ALL_ENGINES)
def test_right_that_is_missing_is_named_where_the_server_names_it(engine: Engine) -> None:
    rights = {
        (refusal.trouble, refusal.way): getattr(error_of(refusal.reply, "redis://"), "right", None)
        for refusal in refused_by(engine)
        if ERRORS[refusal.trouble] == "MissingRight"
    }

    assert rights["no right to the command", "command"] == "+set"
    assert rights["no right to the command", "script"] == ("" if engine in ("6.2", "7.0") else "+set")
    assert rights["no right to the key", "command"] == rights["no right to the key", "script"] == "~gf:*"
    assert rights.get(("no right to the database", "command"), "alldbs") == "alldbs"


def test_right_to_all_subcommands_is_never_asked_for() -> None:
    words = "NOPERM this user has no permissions to run the 'config' command or its subcommand"

    assert error_of(words, "redis://").right == ""


def test_message_for_a_missing_right_shows_the_way_to_the_page() -> None:
    named = str(error_of("NOPERM User u has no permissions to run the 'xadd' command", "redis://"))
    unnamed = str(
        error_of("ERR The user executing the script can't run this command or subcommand", "redis://")
    )

    assert 'give the user the right +xadd: the lines ACL SETUSER in docs/redis.md, "Rights"' in named
    assert "give the user the rights it lacks: the lines ACL SETUSER" in unnamed


@pytest.mark.parametrize(
    "reply",
    [
        "ERR unknown command 'READONLY', with args beginning with: 'MISCONF ' ",
        "ERR user_script:1: READONLY is no number script: on @user_script:1.",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "BUSYGROUP Consumer Group name already exists",
        "ERR DB index is out of range",
    ],
)
def test_word_that_is_not_the_servers_first_means_nothing(reply: str) -> None:
    error = error_of(reply, "redis://")

    assert type(error) is StoreError
    assert reply in str(error)


@pytest.mark.parametrize("kind", ["async", "small"])
def test_database_that_does_not_exist_is_no_matter_of_passwords(kind: str, redis_server: RealServer) -> None:
    address = parse_address(f"unix://{redis_server.socket_path}?db=99")

    def open_it() -> object:
        return Conversation(address) if kind == "small" else run(open_client(address, role="test"))

    with pytest.raises(StoreError, match="DB index is out of range") as caught:
        open_it()

    assert not isinstance(caught.value, AccessDenied)


# A run


#: What makes a server refuse writes, and take them again.
REFUSING: dict[str, tuple[Callable[[Asked], None], tuple[str, ...]]] = {
    "NOREPLICAS": (
        lambda asked: asked.tell("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
    "READONLY": (lambda asked: asked.tell("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "MISCONF": (fail_to_save, ("CONFIG", "SET", "save", "")),
}


@pytest.mark.parametrize("word", REFUSING)
@pytest.mark.parametrize("engine", ALL_ENGINES)
def test_run_waits_while_its_scripts_are_refused_and_then_goes_on(engine: Engine, word: str) -> None:
    refuse, allow = REFUSING[word]
    calls: list[str] = []

    def scripts_called(asked: Asked) -> int:
        (count,) = re.findall(rb"cmdstat_evalsha:calls=(\d+)", asked.ask("INFO", "commandstats"))
        return int(count)

    async def main(asked: Asked) -> None:
        agent = Agent(cache=RedisCache(asked.server.url), name="refused")

        @agent.node(max_retries=1)
        async def first() -> int:
            calls.append("first")
            await asyncio.to_thread(refuse, asked)
            return 1

        @agent.node(max_retries=1)
        async def second(first: int) -> int:
            calls.append("second")
            return first + 1

        running = asyncio.create_task(agent.run_task(Task(type="refused"), run_id="waits"))
        await until(lambda: word in getattr(asked.ask(*COMMAND), "text", ""))
        before = scripts_called(asked)
        await until(lambda: scripts_called(asked) > before + 2 or running.done())
        assert not running.done(), running.result()

        asked.tell(*allow)
        outcome = await running

        assert (outcome.status, outcome["second"]) == ("complete", 2)
        assert calls == ["first", "second"], "no module has paid for it"

    with RealServer(engine) as server:
        run(main(Asked(server)))


def test_reader_of_events_goes_on_when_its_server_became_a_replica(any_server: RealServer) -> None:
    async def main(asked: Asked) -> None:
        async with RedisStore(parse_address(asked.server.url)) as store:
            reading = asyncio.create_task(store.events(RunId("nobody"), block_ms=2_000))
            await until(lambda: b"blocked_clients:1" in asked.ask("INFO", "clients"))
            asked.tell("REPLICAOF", "127.0.0.1", "1")
            try:
                assert await reading == []
            finally:
                asked.tell("REPLICAOF", "NO", "ONE")

    run(main(Asked(any_server)))


@pytest.mark.parametrize("command", ["hmget", "llen", "hget"])
def test_commit_without_a_right_says_so_and_stores_nothing(any_server: RealServer, command: str) -> None:
    async def main(asked: Asked) -> None:
        url = asked.server.url
        async with opened(url) as store:
            driver = await Driver.start(store, map_plan())
            asked.tell("ACL", "SETUSER", "default", f"-{command}")
            try:
                with pytest.raises(MissingRight):
                    await driver.commit(StateSet({"numbers": "[1,2,3]"}), Begin())
            finally:
                asked.tell("ACL", "SETUSER", "default", f"+{command}")
            assert await store.state(driver.run.id) == {}

    run(main(Asked(any_server)))


def first_line_of_rights() -> list[str]:
    """What docs/redis.md gives to a user for runs."""
    (line, *_) = re.findall(r"^ACL SETUSER graphflow (.+)$", RIGHTS.read_text("utf-8"), re.MULTILINE)
    return line.replace("PASSWORD", "secret").split()


#: Rights of the first line that a script needs; the others are for single commands.
IN_SCRIPTS = sorted(
    {
        command.lower()
        for file in LUA.glob("*.lua")
        for command in re.findall(r"\b(?:call|try|ask)\('([A-Z]+)'", file.read_text("utf-8"))
    }
)


@pytest.mark.parametrize("command", IN_SCRIPTS)
def test_run_is_not_begun_without_a_right_that_scripts_need(any_server: RealServer, command: str) -> None:
    user = f"without-{command}"
    asked = Asked(any_server)
    asked.tell("ACL", "SETUSER", user, *first_line_of_rights(), f"-{command}")
    agent = Agent(cache=RedisCache(any_server.url.replace("://", f"://{user}:secret@")), name="denied")

    @agent.node
    def nothing() -> None:
        """Is not called."""

    async def main() -> None:
        with pytest.raises(MissingRight, match=rf"\b{command}\b.*{RIGHTS.name}") as caught:
            await agent.run_task(Task(type="denied"), run_id=user)
        assert caught.value.right == f"+{command}"
        assert asked.ask("EXISTS", f"gf:run:{{{user}}}") == 0

        asked.tell("ACL", "SETUSER", user, f"+{command}")
        assert (await agent.run_task(Task(type="denied"), run_id=user)).status == "complete"
        assert asked.ask("EXISTS", "gf:rights") == 0

    run(main())


def test_who_only_looks_needs_no_right_to_write(any_server: RealServer) -> None:
    async def main() -> None:
        async with opened(any_server.url) as store:
            driver = await Driver.start(store, map_plan())
        asked = Asked(any_server)
        asked.tell(
            "ACL",
            "SETUSER",
            "reader",
            "on",
            ">secret",
            "~gf:*",
            "-@all",
            "+ping",
            "+hget",
            "+hgetall",
            "+hmget",
            "+zrevrange",
            "+client|setname",
        )
        url = any_server.url.replace("://", "://reader:secret@")
        async with opened(url) as store:
            assert (await store.head(driver.run.id)).id == driver.run.id
            assert driver.run.id in {head.id for head in await store.recent(5)}

    run(main())
