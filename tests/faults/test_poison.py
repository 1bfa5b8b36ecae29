"""F32: an item that kills its process every time costs a few deaths, and nobody else's result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from graphflow import Agent, RedisCache, RunResult, Task

ITEMS = 1_000
POISON = 437
#: Deaths that may be needed: as many as fail an item, and one for each time that fast items hid it.
MOST_DEATHS = 8


def agent(url: str, log: Path) -> Agent:
    agent = Agent(cache=RedisCache(url), name="poison", max_concurrent_tasks=100)

    @agent.node(map_over="numbers")
    async def work(number: int) -> int:
        import asyncio

        with log.open("a") as file:
            file.write(f"{number}\n")
        await asyncio.sleep(0.01)
        if number == POISON:
            os._exit(7)
        return number

    @agent.node
    def total(work: list[int]) -> int:
        return sum(work)

    return agent


def drive(url: str, log: Path) -> RunResult:
    return agent(url, log).run_task_sync(
        Task(type="poison"), state={"numbers": list(range(ITEMS))}, run_id="poison-1"
    )


def test_one_poisonous_item_among_a_thousand_is_the_only_one_that_fails(
    redis_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "executions"
    command = [sys.executable, "-m", "tests.faults.test_poison", redis_url, str(log)]

    deaths = 0
    while (ended := subprocess.run(command, capture_output=True, text=True, timeout=60)).returncode == 7:
        deaths += 1
        assert deaths <= MOST_DEATHS

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == f"partial {sum(range(ITEMS)) - POISON} [{POISON}]"
    assert deaths >= 5
    executions = [int(line) for line in log.read_text().split()]
    assert set(executions) == set(range(ITEMS))
    assert max(executions.count(number) for number in range(ITEMS)) <= 1 + deaths


if __name__ == "__main__":
    outcome = drive(sys.argv[1], Path(sys.argv[2]))
    print(outcome.status.value, outcome["total"], [failure.item for failure in outcome.failures])
