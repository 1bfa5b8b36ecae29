"""F44: a process that forks, uses several event loops, or ends, while a run goes on. No socket is shared; what was opened
elsewhere says so; the run goes on where it was or can be resumed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from graphflow.errors import StoreError
from graphflow.ids import RunId
from graphflow.server.address import parse_address
from graphflow.store.redis_store import RedisStore
from tests.faults.graphs import agent_of, answer_of, executions, task_of
from tests.faults.harness import COMPLAINTS, looking_at, run_field
from tests.faults.invariants import check_run
from tests.helpers import run
from tests.programs import ROOT
from tests.servers import RealServer


def program(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", source, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    for complaint in COMPLAINTS:
        assert complaint not in ended.stderr, ended.stderr
    return ended


FORKS = """
import os, sys, threading
from pathlib import Path
from tests.faults.graphs import agent_of, answer_of, task_of
from tests.faults.harness import wait_bodies_begun

url, run_id, log = sys.argv[1:]
agent = agent_of("map", url, Path(log), delay=0.1)
child = None

def fork():
    global child
    child = os.fork()
    if child:
        return
    # The agent, and whatever connections the parent has open, are here too.
    code = 1
    try:
        outcome = agent.run_task_sync(task_of("map"), run_id=run_id + "-child")
        code = 0 if outcome["combine"] == answer_of("map") else 2
    finally:
        os._exit(code)

def beside():
    wait_bodies_begun(Path(log), 3)
    fork()

thread = threading.Thread(target=beside)
thread.start()

outcome = agent.run_task_sync(task_of("map"), run_id=run_id)
assert outcome["combine"] == answer_of("map")
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_forked_process_runs_on_connections_of_its_own_beside_its_parent(
    redis_server: RealServer, tmp_path: Path
) -> None:
    ended = program(FORKS, redis_server.url, tmp_path.name, str(tmp_path / "log"))

    assert (ended.returncode, ended.stdout) == (0, "0\n"), ended.stderr
    with looking_at(redis_server.url) as client:
        for run_id in (tmp_path.name, f"{tmp_path.name}-child"):
            check_run(client, run_id, "map")
            assert run_field(client, run_id, "leases") == "1"


FORKS_WITH_A_STORE = """
import asyncio, os, sys
from graphflow.errors import StoreError
from graphflow.ids import RunId
from graphflow.server.address import parse_address
from graphflow.store.redis_store import RedisStore

async def main():
    async with RedisStore(parse_address(sys.argv[1])) as store:
        child = os.fork()
        if not child:
            try:
                # What a child that goes on with its parent's coroutine would do.
                store.recent(1).send(None)
            except StoreError as error:
                print(error, flush=True)
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert await store.recent(1) is not None

asyncio.run(main())
"""


def test_store_that_was_opened_before_a_fork_is_refused_in_the_child(redis_server: RealServer) -> None:
    ended = program(FORKS_WITH_A_STORE, redis_server.url)

    assert ended.returncode == 0, ended.stderr
    assert "opened in another process or event loop; open one here" in ended.stdout


def test_store_of_another_event_loop_is_refused(redis_url: str) -> None:
    async def opened() -> RedisStore:
        store = RedisStore(parse_address(redis_url))
        await store.open()
        return store

    loop = asyncio.new_event_loop()
    try:
        store = loop.run_until_complete(opened())

        with pytest.raises(StoreError, match="opened in another process or event loop"):
            run(store.head(RunId("none")))

        loop.run_until_complete(store.aclose())
    finally:
        loop.close()


def test_one_agent_in_two_event_loops_at_once_has_connections_for_each(
    redis_server: RealServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    agent = agent_of("map", redis_server.url, log, delay=0.1)
    answers: list[object] = []

    def drive(number: int) -> None:
        outcome = run(agent.run_task(task_of("map"), run_id=f"{tmp_path.name}-{number}"))
        answers.append(outcome["combine"])

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert answers == [answer_of("map")] * 2
    assert set(executions(log).values()) == {2}
    with looking_at(redis_server.url) as client:
        for number in range(2):
            check_run(client, f"{tmp_path.name}-{number}", "map")


ENDS_BEFORE_A_SYNC_NODE = """
import asyncio, sys, threading
from graphflow import Agent, RunInterrupted, Task
from graphflow.caches.redis_cache import RedisCache

url, run_id, how = sys.argv[1:]
agent = Agent(name="ends", cache=RedisCache(url))
begun = threading.Event()

@agent.node
async def waits():
    begun.set()
    while threading.main_thread().is_alive():
        await asyncio.sleep(0.01)

@agent.node(dependencies=["waits"])
def ends():
    return "done"

def drive():
    try:
        print(agent.run_task_sync(Task(type="ends"), run_id=run_id).status)
    except RunInterrupted:
        print("interrupted")

if how == "resume":
    print(asyncio.run(agent.resume(run_id)).status)
else:
    threading.Thread(target=drive).start()
    begun.wait()
"""


def test_sync_node_that_comes_after_the_main_thread_has_ended_runs_or_the_run_is_given_back(
    redis_server: RealServer, tmp_path: Path
) -> None:
    """Python 3.12 starts no threads then."""
    ended = program(ENDS_BEFORE_A_SYNC_NODE, redis_server.url, tmp_path.name, "drive")
    resumed = program(ENDS_BEFORE_A_SYNC_NODE, redis_server.url, tmp_path.name, "resume")

    assert (ended.returncode, resumed.returncode) == (0, 0), ended.stderr + resumed.stderr
    assert ended.stdout in ("complete\n", "interrupted\n"), ended.stderr
    assert resumed.stdout == "complete\n"


ENDS = """
import sys, threading
from pathlib import Path
from tests.faults.graphs import agent_of, task_of
from tests.faults.harness import wait_bodies_begun

url, run_id, log, how = sys.argv[1:]
agent = agent_of("map", url, Path(log), delay=0.2, lease_seconds=60)
driving = threading.Thread(
    target=agent.run_task_sync, args=(task_of("map"),), kwargs={"run_id": run_id}, daemon=how == "daemon"
)
driving.start()
wait_bodies_begun(Path(log), 3)
print("ends", flush=True)
"""


@pytest.mark.parametrize("how", ["daemon", "joined"])
def test_interpreter_that_ends_with_a_run_under_way_leaves_it_whole(
    how: str, redis_server: RealServer, tmp_path: Path
) -> None:
    """Python waits for a thread that is no daemon; one that is dies with the process, and its run is taken over."""
    log = tmp_path / "log"

    ended = program(ENDS, redis_server.url, tmp_path.name, str(log), how)

    assert (ended.returncode, ended.stdout) == (0, "ends\n"), ended.stderr
    with looking_at(redis_server.url) as client:
        assert run_field(client, tmp_path.name, "status") == ("executing" if how == "daemon" else "complete")
        outcome = run(agent_of("map", redis_server.url, log).resume(tmp_path.name))
        assert outcome["combine"] == answer_of("map")
        check_run(client, tmp_path.name, "map")
        assert run_field(client, tmp_path.name, "leases") == ("2" if how == "daemon" else "1")
    assert max(executions(log).values()) <= 2
