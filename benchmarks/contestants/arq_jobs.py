"""arq: a job for each item, its result read by its id; two worker processes."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

from arq import create_pool, func
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job, ResultNotFound

from benchmarks.occasion import Occasion
from benchmarks.workers import PROCESSES, socket_path, workers
from benchmarks.workloads import WORKLOADS

POLL_SECONDS = 0.05
AT_ONCE = 100
SETTINGS = RedisSettings(unix_socket_path=socket_path())


async def work(context: Any, workload: str, item: int) -> Any:
    body = WORKLOADS[workload].body
    assert body is not None
    return await body(item)


class WorkerSettings:
    functions = (func(work),)
    redis_settings = SETTINGS
    max_jobs = 1_000
    poll_delay = POLL_SECONDS


async def each_item(occasion: Occasion) -> int:
    pool = await create_pool(SETTINGS)
    with ExitStack() as stack:
        for _ in range(PROCESSES):
            stack.enter_context(workers("arq", f"{__name__}.WorkerSettings"))
        await _jobs(pool, occasion, occasion.warm_up_items)
        with occasion.timed():
            return await _jobs(pool, occasion, occasion.items)


async def _jobs(pool: ArqRedis, occasion: Occasion, items: range) -> int:
    jobs = []
    for start in range(items.start, items.stop, AT_ONCE):
        jobs += await asyncio.gather(
            *[
                pool.enqueue_job("work", occasion.workload.name, item)
                for item in items[start : start + AT_ONCE]
            ]
        )
    # One after the other: most are there when they are asked for, and nobody asks for thousands at a time.
    return occasion.total([await _result(job) for job in jobs if job is not None])


async def _result(job: Job) -> Any:
    while True:
        try:
            return await job.result(poll_delay=POLL_SECONDS)
        except ResultNotFound:
            # It looks for the result and then for the job, which may have finished in between.
            continue
