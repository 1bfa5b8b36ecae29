"""Prefect: `task.map` inside a flow, and a loop of tasks for the chain, with a server of its own for the run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks.occasion import Occasion


def each_item(occasion: Occasion) -> int:
    prefect = _prefect(occasion)

    @prefect.task
    def work(item: int) -> Any:
        return occasion.sync_body(item)

    @prefect.flow
    def mapped(count: int) -> int:
        return occasion.total(work.map(list(range(count))).result())

    return _timed(occasion, mapped, len(occasion.warm_up_items))


def chain(occasion: Occasion) -> int:
    prefect = _prefect(occasion)

    @prefect.task
    def step(steps: int) -> int:
        return steps + 1

    @prefect.flow
    def counted(count: int) -> int:
        steps = 0
        for _ in range(count):
            steps = step(steps)
        return steps

    return _timed(occasion, counted, 2)


def _prefect(occasion: Occasion) -> Any:
    """Its settings are read when it is imported."""
    os.environ |= {
        "PREFECT_HOME": str(occasion.folder),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    import prefect

    return prefect


def _timed(occasion: Occasion, flow: Callable[[int], int], warm_up: int) -> int:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=45):
        flow(warm_up)
        with occasion.timed():
            return flow(occasion.count)
