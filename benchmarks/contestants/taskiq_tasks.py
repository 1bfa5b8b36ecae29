"""taskiq with its Redis list broker and result backend: a task for each item; two worker processes."""

from __future__ import annotations

import asyncio
from typing import Any

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from benchmarks.occasion import Occasion
from benchmarks.workers import PROCESSES, socket_path, workers
from benchmarks.workloads import WORKLOADS

POLL_SECONDS = 0.02
WAIT_SECONDS = 60.0
AT_ONCE = 100
MAX_TASKS = 5_000

URL = f"unix://{socket_path()}"
broker = ListQueueBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))
WORKER = ("worker", f"{__name__}:broker", "--workers", str(PROCESSES), "--max-async-tasks", str(MAX_TASKS))


@broker.task
async def work(workload: str, item: int) -> Any:
    body = WORKLOADS[workload].body
    assert body is not None
    return await body(item)


async def each_item(occasion: Occasion) -> int:
    await broker.startup()
    try:
        with workers("taskiq", *WORKER):
            await _tasks(occasion, occasion.warm_up_items)
            with occasion.timed():
                return await _tasks(occasion, occasion.items)
    finally:
        await broker.shutdown()


async def _tasks(occasion: Occasion, items: range) -> int:
    tasks: list[Any] = []
    for start in range(items.start, items.stop, AT_ONCE):
        tasks += await asyncio.gather(
            *[work.kiq(occasion.workload.name, item) for item in items[start : start + AT_ONCE]]
        )
    # One after the other: most are there when they are asked for, and nobody asks for thousands at a time.
    found = [await task.wait_result(check_interval=POLL_SECONDS, timeout=WAIT_SECONDS) for task in tasks]
    return occasion.total(result.return_value for result in found)
