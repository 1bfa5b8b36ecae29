"""The process that drives a run dies inside of sub-graphs: who resumes it goes on there, and the answer is the same."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graphflow import Agent, RunStatus, Task
from graphflow.errors import PlaceNotPassed
from graphflow.testing import crash_at
from tests.servers import RealServer
from tests.unit.scene import agent, turned

TASK = Task(type="test")
ANSWER = [[3, 6], [4, 8]]
#: Where a run with sub-graphs comes by.
PLACES = [
    "outcome.taken",
    "commit.before",
    "commit.before_send",
    "commit.after_reply",
    "commit.acknowledged",
    "attempt.launched",
    "attempt.returned",
    "decision.made",
    "run.ended",
]


def team(made: Agent, calls: list[str]) -> Agent:
    """Two visits' worth of work: a graph in a graph, twice, with a loop inside and an attempt that fails."""

    def doubler() -> Agent:
        inner = Agent(name="doubler")

        @inner.node(outputs=["n"])
        async def add(cache, start):
            calls.append("add")
            await cache.set("n", await cache.get("n", start) + 1)
            return await cache.get("n")

        @inner.decide(to="add", after="add")
        async def again(cache, start):
            return "add" if await cache.get("n") < start + 2 else None

        @inner.node(dependencies=["again"])
        async def double(cache):
            calls.append("double")
            n = await cache.get("n")
            return [n, 2 * n]

        return inner

    middle = Agent(name="middle")
    middle.node(name="deep", inputs=["start"])(doubler())
    middle.node(name="out", dependencies=["deep"])(lambda deep: deep)
    for number in (1, 2):
        made.node(name=f"part{number}", inputs={"start": str(number)}, outputs={f"got{number}": "deep"})(
            middle
        )

    @made.node
    def end(got1, got2):
        return [got1, got2]

    return made


@pytest.mark.parametrize("place", PLACES)
def test_death_at_any_place_changes_nothing_of_what_comes_out(place: str) -> None:
    turn = 0
    while True:
        turn += 1
        calls: list[str] = []
        made = team(agent(), calls)

        async def main(clock: object, made: Agent = made, turn: int = turn) -> None:
            with crash_at(place, turn):
                await made.run_task(TASK, run_id="killed")
            outcome = await made.run_task(TASK, run_id="killed")
            assert outcome.status is RunStatus.COMPLETE, outcome.error
            assert outcome["end"] == ANSWER
            assert outcome.node_results["part1/deep/add"].visits == 2

        try:
            turned(main)
        except PlaceNotPassed:
            break
    assert turn > 1, "nothing was tried"


VICTIM = """
import sys
from graphflow import Agent, RedisCache, Task
from tests.faults.test_subgraph_kill import slow_team

agent = slow_team(Agent(cache=RedisCache(sys.argv[1]), name="slow", lease_seconds=0.2), sys.argv[2])
print(agent.run_task_sync(Task(type="test"), run_id=sys.argv[3])["inside"])
"""


def slow_team(made: Agent, log: str) -> Agent:
    """Four nodes in a chain inside, each of which says when it begins and when it is over."""
    inner = Agent(name="inner")

    def note(text: str) -> None:
        with Path(log).open("a") as file:
            file.write(f"{text}\n")

    for number in range(4):

        async def body(cache, number: int = number) -> int:
            note(f"begin {number}")
            await asyncio.sleep(0.1)
            note(f"end {number}")
            return number

        after = [f"n{number - 1}"] if number else []
        inner.node(name=f"n{number}", dependencies=after)(_without_default(body, number))
    made.node(name="inside")(inner)
    return made


def _without_default(body, number: int):
    async def process(cache):
        return await body(cache, number)

    return process


def test_another_process_goes_on_inside_after_a_kill(redis_server: RealServer, tmp_path: Path) -> None:
    log, run_id = tmp_path / "log", f"inside-{tmp_path.name}"
    log.touch()
    words = [sys.executable, "-c", VICTIM, redis_server.url, str(log), run_id]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as victim:
        while "begin 2" not in log.read_text() and victim.poll() is None:
            pass
        os.kill(victim.pid, signal.SIGKILL)
    second = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)

    assert second.stdout == "3\n"
    lines = log.read_text().splitlines()
    assert lines.count("begin 0") == 1
    assert lines.count("end 0") == 1
    assert lines.count("end 3") == 1
