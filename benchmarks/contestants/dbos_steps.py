"""DBOS on SQLite: a workflow that gathers a step for each item; form `queue`: a workflow for each, from a queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dbos import DBOS

from benchmarks.occasion import Occasion
from benchmarks.workloads import WORKLOADS

QUEUE = "items"
POLL_SECONDS = 0.02


@DBOS.step()
async def work(workload: str, item: int) -> Any:
    body = WORKLOADS[workload].body
    assert body is not None
    return await body(item)


@DBOS.step()
async def step(steps: int) -> int:
    return steps + 1


@DBOS.workflow()
async def one(workload: str, item: int) -> Any:
    return await work(workload, item)


@DBOS.workflow()
async def gathered(workload: str, count: int) -> int:
    return WORKLOADS[workload].total(await asyncio.gather(*[work(workload, item) for item in range(count)]))


@DBOS.workflow()
async def queued(workload: str, count: int) -> int:
    handles = [await DBOS.enqueue_workflow_async(QUEUE, one, workload, item) for item in range(count)]
    return WORKLOADS[workload].total([await handle.get_result() for handle in handles])


@DBOS.workflow()
async def counted(count: int) -> int:
    steps = 0
    for _ in range(count):
        steps = await step(steps)
    return steps


async def each_item(occasion: Occasion) -> int:
    workflow = queued if occasion.form == "queue" else gathered
    async with _dbos(occasion):
        await workflow(occasion.workload.name, len(occasion.warm_up_items))
        with occasion.timed():
            return await workflow(occasion.workload.name, occasion.count)


async def chain(occasion: Occasion) -> int:
    async with _dbos(occasion):
        await counted(2)
        with occasion.timed():
            return await counted(occasion.count)


@asynccontextmanager
async def _dbos(occasion: Occasion) -> AsyncIterator[None]:
    DBOS(
        config={
            "name": "benchmark",
            "system_database_url": f"sqlite:///{occasion.folder / 'dbos.sqlite'}",
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )
    DBOS.launch()
    await DBOS.register_queue_async(QUEUE, polling_interval_sec=POLL_SECONDS)
    try:
        yield
    finally:
        DBOS.destroy()
