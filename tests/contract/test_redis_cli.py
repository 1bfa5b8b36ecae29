"""The commands of docs/redis.md, typed into the real redis-cli on every server while a run goes on."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from graphflow.inputs import Begin, ItemOutcomes, StateSet
from graphflow.run import Failure
from tests.contract.driving import NOW, Driver, map_plan, opened
from tests.helpers import run as run_async
from tests.servers import RealServer, redis_cli_path

PAGE = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")


class RedisCli:
    def __init__(self, server: RealServer, run_id: str) -> None:
        self.server, self.run_id = server, run_id

    def type(self, *words: str) -> list[str]:
        """The lines that redis-cli prints for a command in which ID stands for the run's id."""
        typed = [word.replace("ID", self.run_id) for word in words]
        command = [redis_cli_path(), "-s", self.server.socket_path, *typed]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return found.stdout.splitlines()

    def fields(self, key: str) -> dict[str, str]:
        lines = self.type("hgetall", key)
        return dict(zip(lines[::2], lines[1::2], strict=True))


@pytest.fixture
def redis_cli(any_server):
    """A look at a run of which a map is half done, while it is driven."""

    async def main(looks) -> None:
        async with opened(any_server.url) as store:
            driver = await Driver.start(store, map_plan())
            await driver.commit(StateSet({"numbers": "[1,2,3]"}, {"numbers": 3600}), Begin())
            await driver.open_map("double", [(0, "1"), (1, "2"), (2, "3")])
            await driver.commit(
                ItemOutcomes(0, 1, done=[(0, "2")], failed=[(2, Failure("ValueError", "odd"), 3)])
            )
            await asyncio.to_thread(looks, RedisCli(any_server, driver.run.id))

    return lambda looks: run_async(main(looks))


def test_what_people_type_shows_the_run_as_it_stands(redis_cli):
    def looks(cli: RedisCli) -> None:
        run = cli.fields("gf:run:{ID}")
        assert run["status"] == "executing"
        assert run["progress"] == "0/2 nodes, 1 active, double 2/3"
        assert run["owner"] == cli.fields("gf:run:{ID}:lease")["owner"]
        assert run["started"].endswith("Z")
        assert max(map(len, run.values())) < 200
        assert cli.fields("gf:run:{ID}:nodes") == {"double": "running", "total": "pending"}
        assert cli.fields("gf:run:{ID}:node:double")["visits"] == "1"
        found = cli.fields("gf:run:{ID}:map:double")
        assert (found["total"], found["done"], found["failed"]) == ("3", "1", "1")
        assert cli.type("hget", "gf:run:{ID}:map:double:out", "0") == ["2"]
        assert cli.fields("gf:run:{ID}:map:double:failed") == {
            "2": '{"type":"ValueError","message":"odd","attempts":3}'
        }
        assert cli.type("hget", "gf:run:{ID}:state", "numbers") == ["[1,2,3]"]
        assert int(cli.fields("gf:run:{ID}:expiring")["numbers"]) >= NOW + 3_600_000
        assert "ItemFailed" in cli.type("xrevrange", "gf:run:{ID}:events", "+", "-", "count", "1")
        assert cli.run_id in cli.type("zrevrange", "gf:runs", "0", "4")
        assert any("name=graphflow:run:" in line for line in cli.type("client", "list"))

    redis_cli(looks)


def test_scan_shows_the_keys_of_the_table_and_no_other(redis_cli):
    def looks(cli: RedisCli) -> None:
        start = f"gf:run:{{{cli.run_id}}}"
        parts = ["", "events", "expiring", "lease"]
        parts += ["map:double", "map:double:failed", "map:double:in", "map:double:out"]
        parts += ["node:double", "nodes", "plan", "revisions", "state", "task"]
        assert sorted(cli.type("--scan", "--pattern", "gf:run:{ID}*")) == [
            f"{start}:{part}" if part else start for part in parts
        ]

    redis_cli(looks)


def test_every_command_of_the_page_answers(redis_cli):
    table = PAGE[PAGE.index("| question | command |") : PAGE.index("Look, but do not write")]
    commands = re.findall(r"^\| [^|]*\? \| `([^`]+)`", table, re.MULTILINE)

    def looks(cli: RedisCli) -> None:
        for command in commands:
            words = [
                word.replace("NODE", "double").replace("KEY", "numbers") for word in shlex.split(command)
            ]
            assert cli.type(*("0" if word == "17" else word for word in words)), command

    assert len(commands) == 14
    redis_cli(looks)
