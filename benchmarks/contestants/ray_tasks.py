"""Ray on this machine: a task for each item, one process for each processor; an async actor where items wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from benchmarks.occasion import Occasion
from benchmarks.workloads import WORKLOADS


@ray.remote
def work(workload: str, item: int) -> Any:
    return WORKLOADS[workload].sync_body(item)


@ray.remote
class Waiter:
    async def work(self, workload: str, item: int) -> Any:
        body = WORKLOADS[workload].body
        assert body is not None
        return await body(item)


def each_item(occasion: Occasion) -> int:
    with _ray():
        return _timed(occasion, work)


def io(occasion: Occasion) -> int:
    with _ray():
        waiter = Waiter.options(max_concurrency=occasion.count + 1).remote()
        return _timed(occasion, waiter.work)


@contextmanager
def _ray() -> Iterator[None]:
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        yield
    finally:
        ray.shutdown()


def _timed(occasion: Occasion, remote: Any) -> int:
    name = occasion.workload.name
    ray.get([remote.remote(name, item) for item in occasion.warm_up_items])
    with occasion.timed():
        return occasion.total(ray.get([remote.remote(name, item) for item in occasion.items]))
