"""F32: an item that kills its process every time costs a few deaths, and nobody else's result."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from graphflow import Agent, RedisCache, RunResult, Task
from tests import programs
from tests.programs import ROOT

ITEMS = 1_000
POISON = 437
#: Deaths that may be needed: as many as fail an item, and one for each time that fast items hid it.
MOST_DEATHS = 8


def agent(url: str, log: Path, kind: str) -> Agent:
    agent = Agent(cache=RedisCache(url), name=f"poison-{kind}", max_concurrent_tasks=100)

    def begin(number: int) -> None:
        with log.open("a") as file:
            file.write(f"{number}\n")

    def end(number: int) -> int:
        if number == POISON:
            os._exit(7)
        return number

    async def work(number: int) -> int:
        begin(number)
        await asyncio.sleep(0.01)
        return end(number)

    def work_in_thread(number: int) -> int:
        begin(number)
        time.sleep(0.01)
        return end(number)

    agent.node(name="work", map_over="numbers")(work if kind == "async" else work_in_thread)

    @agent.node
    def total(work: list[int]) -> int:
        return sum(work)

    return agent


def drive(url: str, log: Path, kind: str) -> RunResult:
    return agent(url, log, kind).run_task_sync(
        Task(type="poison"), state={"numbers": list(range(ITEMS))}, run_id=f"poison-{kind}"
    )


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_one_poisonous_item_among_a_thousand_is_the_only_one_that_fails(
    redis_url: str, tmp_path: Path, kind: str
) -> None:
    log = tmp_path / "executions"
    words = ["-m", "tests.faults.test_poison", redis_url, str(log), kind]

    deaths = 0
    while (ended := programs.run(words, cwd=ROOT, timeout=60)).returncode == 7:
        deaths += 1
        assert deaths <= MOST_DEATHS

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == f"partial {sum(range(ITEMS)) - POISON} [{POISON}]"
    assert deaths >= 5
    executions = [int(line) for line in log.read_text().split()]
    assert set(executions) == set(range(ITEMS))
    assert max(executions.count(number) for number in range(ITEMS)) <= 1 + deaths


if __name__ == "__main__":
    outcome = drive(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    print(outcome.status.value, outcome["total"], [failure.item for failure in outcome.failures])
