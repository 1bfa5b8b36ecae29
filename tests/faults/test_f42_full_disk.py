"""F42: the disk of the log is full. Redis takes no writes (MISCONF), the run waits, and goes on when there is room."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from graphflow import Agent, RedisCache, RunStatus, Task
from tests.helpers import run, wait_until
from tests.servers import RealServer

ITEMS = 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB; mounting one needs rights that not everybody has."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "graphflow-test", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_f42_run_waits_while_the_disk_of_the_log_is_full_and_then_goes_on(small_disk: Path) -> None:
    executions: list[int] = []

    async def main(url: str) -> None:
        agent = Agent(cache=RedisCache(url), max_concurrent_tasks=4)

        @agent.node(map_over="numbers")
        async def double(number: int) -> int:
            executions.append(number)
            await asyncio.sleep(0.01)
            return 2 * number

        @agent.node
        def total(double: list[int]) -> int:
            return sum(double)

        state = {"numbers": list(range(ITEMS))}
        running = asyncio.create_task(agent.run_task(Task(type="disk"), state=state, run_id="disk-1"))
        await asyncio.to_thread(wait_until, lambda: len(executions) > 20)
        filler = small_disk / "filler"
        await asyncio.to_thread(fill, filler)
        await asyncio.to_thread(wait_until, lambda: refuses_writes(url), what="Redis to refuse writes")
        await asyncio.sleep(0.5)
        assert not running.done()

        filler.unlink()
        outcome = await asyncio.wait_for(running, 30)

        assert outcome.status is RunStatus.COMPLETE
        assert outcome["total"] == sum(2 * number for number in range(ITEMS))
        assert sorted(executions) == list(range(ITEMS))

    with RealServer("current", appendfsync="everysec", options={"dir": str(small_disk)}) as server:
        run(main(server.url))


def fill(filler: Path) -> None:
    """Take all the room there is."""
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            return


def refuses_writes(url: str) -> bool:
    client = redis.Redis.from_url(url)
    try:
        return client.info("persistence")["aof_last_write_status"] == "err"
    finally:
        client.close()
