"""What a person types into a shell to look at a run while it goes on, and what the real redis-cli prints then."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphflow import Agent, RedisCache, Task
from graphflow.result import RunResult
from tests.helpers import wait_until
from tests.servers import RealServer, redis_cli_path

ITEMS = 8
BAD_ITEM = 2
#: Items that end by themselves; the others wait for the test.
EARLY_ITEMS = 4


class RunningRun:
    """A run driven by a thread of this process, which stands still in the middle of its map until it is let go."""

    def __init__(self, server: RealServer, run_id: str) -> None:
        self.server = server
        self.run_id = run_id
        self.result: RunResult | None = None
        self._gates = [threading.Event() for _ in range(ITEMS)]
        self._thread = threading.Thread(target=self._drive)

    def _drive(self) -> None:
        agent = Agent(cache=RedisCache(self.server.url), name="looker", lease_seconds=1.0)
        agent.node(self.count)
        agent.node(map_over="count", max_retries=1)(self.double)
        agent.node(self.report)
        task = Task(type="numbers", objective="double them", params={"count": ITEMS, "text": "long " * 100})
        self.result = agent.run_task_sync(task, run_id=self.run_id, state={"greeting": {"text": "hello"}})

    @staticmethod
    def count(task: Task) -> list[int]:
        return list(range(task.params["count"]))

    def double(self, number: int) -> int:
        self._gates[number].wait()
        if number == BAD_ITEM:
            raise ValueError("this one is bad")
        return number * 2

    @staticmethod
    def report(double: list[int]) -> int:
        return sum(double)

    def start(self) -> RunningRun:
        self.let_go(*range(EARLY_ITEMS))
        self._thread.start()
        wait_until(lambda: self.map_fields()["done"] == str(EARLY_ITEMS - 1), what="the early items")
        return self

    def let_go(self, *items: int) -> None:
        for item in items:
            self._gates[item].set()

    def finish(self) -> RunResult:
        self.let_go(*range(ITEMS))
        self._thread.join(30)
        assert self.result is not None, "the run came to no end"
        return self.result

    def types(self, line: str) -> str:
        """What a shell prints for this line after `redis-cli`, with ID as the run's own id."""
        line = f"redis-cli -s {self.server.socket_path} {line.replace('ID', self.run_id)}"
        path = f"{Path(redis_cli_path()).parent}{os.pathsep}{os.environ['PATH']}"
        shown = subprocess.run(
            ["sh", "-c", line],
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (shown.returncode, shown.stderr) == (0, ""), line
        assert not shown.stdout.startswith(("ERR", "WRONGTYPE")), shown.stdout
        return shown.stdout.rstrip("\n")

    def fields(self, line: str) -> dict[str, str]:
        lines = self.types(line).splitlines()
        return dict(zip(lines[::2], lines[1::2], strict=True))

    def map_fields(self) -> dict[str, str]:
        return {"done": "0", **self.fields("hgetall 'gf:run:{ID}:map:double'")}


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with RealServer() as server:
        yield server


@pytest.fixture
def running(server: RealServer, request: pytest.FixtureRequest) -> Iterator[RunningRun]:
    run_id = re.sub("[^a-z_]", "", request.node.name)[:60]
    running = RunningRun(server, run_id)
    try:
        yield running.start()
    finally:
        running.finish()


def test_latest_runs_are_listed(running: RunningRun) -> None:
    assert running.types("zrevrange gf:runs 0 4").splitlines()[0] == running.run_id


def test_run_shows_its_status_owner_and_progress_in_short_values(running: RunningRun) -> None:
    fields = running.fields("hgetall 'gf:run:{ID}'")

    assert fields["status"] == "executing"
    assert fields["owner"].startswith(f"{socket.gethostname()}:{os.getpid()}:")
    assert fields["progress"] == f"1/3 nodes, 1 active, double {EARLY_ITEMS}/{ITEMS}"
    assert fields["agent"] == "looker"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields["started"])
    assert "error" not in fields
    assert {name: text for name, text in fields.items() if len(text) > 200} == {}


def test_what_was_asked_for_is_shown_by_a_key_of_its_own(running: RunningRun) -> None:
    assert running.types("hget 'gf:run:{ID}' task") == "numbers"
    assert running.types("hget 'gf:run:{ID}:task' objective") == "double them"
    params = json.loads(running.types("hget 'gf:run:{ID}:task' params"))
    assert params == {"count": ITEMS, "text": "long " * 100}


def test_run_that_failed_in_part_shows_its_error(running: RunningRun) -> None:
    running.finish()

    fields = running.fields("hgetall 'gf:run:{ID}'")

    assert fields["status"] == "partial"
    assert fields["error"] == "node 'double': 1 item failed"
    assert "owner" not in fields


def test_each_node_is_shown_with_one_word(running: RunningRun) -> None:
    fields = running.fields("hgetall 'gf:run:{ID}:nodes'")

    assert fields == {"count": "succeeded", "double": "running", "report": "pending"}


def test_map_shows_its_total_and_how_far_it_is_moving(running: RunningRun) -> None:
    first = running.map_fields()
    running.let_go(5)
    wait_until(lambda: running.map_fields()["done"] != first["done"], what="the counter to move")
    second = running.map_fields()

    assert (first["total"], first["done"], first["failed"]) == (str(ITEMS), "3", "1")
    assert (second["total"], second["done"], second["failed"]) == (str(ITEMS), "4", "1")


def test_value_of_the_state_is_shown_as_the_json_that_a_module_set(running: RunningRun) -> None:
    assert json.loads(running.types("hget 'gf:run:{ID}:state' count")) == list(range(ITEMS))
    assert running.types("hget 'gf:run:{ID}:state' greeting") == '{"text":"hello"}'


def test_last_facts_are_shown_by_name(running: RunningRun) -> None:
    lines = running.types("xrevrange 'gf:run:{ID}:events' + - count 5").splitlines()

    names = [lines[place + 1] for place, line in enumerate(lines) if line == "event"]
    assert len(names) == 5
    assert set(names) >= {"ItemsFinished", "ItemFailed", "MapOpened", "NodeStarted"}
    assert "this one is bad" in "\n".join(lines)


def test_every_key_of_the_run_is_found_and_no_other(running: RunningRun) -> None:
    found = running.types("--scan --pattern 'gf:run:{ID}*'").splitlines()

    run = f"gf:run:{{{running.run_id}}}"
    parts = [
        "",
        ":task",
        ":plan",
        ":initial",
        ":state",
        ":revisions",
        ":nodes",
        ":events",
        ":lease",
        ":map:double",
    ]
    records = [":map:double:in", ":map:double:out", ":map:double:failed"]
    # A node has a key from its first change on: `report` has none yet.
    nodes = [":node:count", ":node:double"]
    assert sorted(found) == sorted(f"{run}{part}" for part in (*parts, *records, *nodes))


def test_every_connection_has_the_name_of_its_role_host_and_process(running: RunningRun) -> None:
    def names() -> list[str]:
        lines = running.types("client list").splitlines()
        own = [line for line in lines if re.search(r" cmd=client(\|list)? ", line)]
        assert len(own) == 1, "redis-cli itself"
        return [_client_field(line, "name") for line in lines if line not in own]

    wait_until(lambda: any(":lease:" in name for name in names()), what="the first renewal of the lease")
    host = re.sub(r"[^\w.-]", "-", socket.gethostname())
    expected = {f"graphflow:{role}:{host}:{os.getpid()}" for role in ("run", "lease")}
    assert set(names()) == expected


def _client_field(line: str, name: str) -> str:
    fields: dict[str, Any] = dict(part.split("=", 1) for part in line.split(" ") if "=" in part)
    return str(fields[name])
