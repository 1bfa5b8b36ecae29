"""Libraries for tests that freeze the time: what a run waits for comes all the same, by the clock of its event loop."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import programs
from tests.servers import RealServer

#: What freezes the time, and leaves event loops theirs.
FREEZERS = {
    "freezegun": "from freezegun import freeze_time\nfrozen = freeze_time('2024-01-01', real_asyncio=True)",
    "time-machine": "import time_machine\nfrozen = time_machine.travel('2024-01-01', tick=False)",
}
PROGRAM = """
import asyncio, sys, threading
{freezer}
if {imports_frozen}:
    frozen.start()
from graphflow import Agent, RedisCache, Task

url = sys.argv[1]
agent = Agent(cache=RedisCache(url), lease_seconds=0.3)
calls = []

{graph}

if not {imports_frozen}:
    frozen.start()
outcome = agent.run_task_sync(Task(type="frozen"))
print(outcome.status, outcome.result, calls)
for failure in outcome.failures:
    print(failure.error)
"""


def printed(folder: Path, url: str, graph: str, *, freezer: str, imports_frozen: bool = False) -> str:
    program = PROGRAM.format(freezer=freezer, graph=graph, imports_frozen=imports_frozen)
    (folder / "frozen.py").write_text(program)
    ended = programs.run(
        ["-W", "error", "frozen.py", url],
        is_forked=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(params=FREEZERS.values(), ids=FREEZERS)
def freezer(request: pytest.FixtureRequest) -> str:
    return request.param


def test_frozen_dates_are_stored(tmp_path: Path, redis_server: RealServer, freezer: str) -> None:
    graph = """
import datetime

@agent.node
def when():
    return [datetime.datetime.now(), datetime.date.today()]

@agent.node
async def look(when):
    return [each.isoformat()[:10] for each in when]
"""

    assert (
        printed(tmp_path, redis_server.url, graph, freezer=freezer)
        == "complete ['2024-01-01', '2024-01-01'] []\n"
    )


def test_timeout_ends_a_body(tmp_path: Path, redis_server: RealServer, freezer: str) -> None:
    graph = """
@agent.node(timeout=0.2, max_retries=1)
async def hang():
    await asyncio.sleep(3600)
"""
    output = printed(tmp_path, redis_server.url, graph, freezer=freezer)

    assert output.startswith("failed None []\n")
    assert "timeout=0.2" in output


def test_retry_is_waited_for_and_done(tmp_path: Path, redis_server: RealServer, freezer: str) -> None:
    graph = """
@agent.node(max_retries=3)
def third():
    calls.append(len(calls))
    if len(calls) < 3:
        raise ConnectionError("not yet")
    return "done"
"""
    assert printed(tmp_path, redis_server.url, graph, freezer=freezer) == "complete done [0, 1, 2]\n"


def test_deadline_ends_a_run(tmp_path: Path, redis_server: RealServer, freezer: str) -> None:
    graph = """
agent.deadline = 0.3

@agent.node
async def hang():
    await asyncio.sleep(3600)
"""
    assert printed(tmp_path, redis_server.url, graph, freezer=freezer).startswith("failed None []\n")


def test_element_of_a_slow_sync_source_is_handed_on_before_the_next_one(
    tmp_path: Path, redis_server: RealServer, freezer: str
) -> None:
    graph = """
is_doubled = threading.Event()

@agent.node
def numbers():
    yield 1
    threading.Event().wait(0.5)
    yield 2
    assert is_doubled.wait(30), "the first one is not done"
    yield 3

@agent.node(map_over=numbers)
def double(number):
    is_doubled.set()
    return 2 * number
"""
    graph = graph.replace("@agent.node\ndef numbers", "def numbers")

    assert printed(tmp_path, redis_server.url, graph, freezer=freezer) == "complete [2, 4, 6] []\n"


@pytest.mark.parametrize("imports_frozen", [False, True], ids=["imported before", "imported meanwhile"])
def test_lease_is_renewed(
    tmp_path: Path, redis_server: RealServer, freezer: str, imports_frozen: bool
) -> None:
    graph = """
@agent.node
async def long():
    calls.append(1)
    await asyncio.sleep(1.5)
"""
    output = printed(tmp_path, redis_server.url, graph, freezer=freezer, imports_frozen=imports_frozen)

    assert output == "complete None [1]\n"


def test_store_that_is_not_there_is_given_up(tmp_path: Path, freezer: str) -> None:
    graph = """
from graphflow import StoreUnreachable

@agent.node
def never():
    pass

run = agent.run_task_sync
class Nothing:
    status, result, failures = "unreachable", None, []
def run_task_sync(task):
    try:
        return run(task)
    except StoreUnreachable:
        return Nothing
agent.run_task_sync = run_task_sync
"""
    output = printed(tmp_path, f"unix://{tmp_path}/nothing.sock", graph, freezer=freezer)

    assert output == "unreachable None []\n"


FREEZES_LOOPS_TOO = "from freezegun import freeze_time\nfrozen = freeze_time('2024-01-01')"


def test_run_that_waits_for_no_time_ends_where_the_clock_of_the_loop_stands_still(
    tmp_path: Path, redis_server: RealServer
) -> None:
    graph = """
@agent.node
async def numbers():
    return [1, 2, 3]

@agent.node(map_over="numbers")
def double(number):
    return 2 * number

@agent.node
def total(double):
    return sum(double)
"""
    output = printed(tmp_path, redis_server.url, graph, freezer=FREEZES_LOOPS_TOO)

    assert output == "complete 12 []\n"


def test_timeout_comes_when_a_test_moves_the_clock_of_the_loop(
    tmp_path: Path, redis_server: RealServer
) -> None:
    freezer = """
from freezegun import freeze_time
class Frozen:
    def start(self):
        self.factory = freeze_time("2024-01-01").start()
frozen = Frozen()
"""
    graph = """
@agent.node(timeout=50, max_retries=1)
async def hang():
    calls.append("begun")
    asyncio.get_running_loop().call_soon(frozen.factory.tick, 60)
    await asyncio.sleep(3600)
"""
    output = printed(tmp_path, redis_server.url, graph, freezer=freezer)

    assert output.startswith("failed None ['begun']\n")
    assert "timeout=50" in output
