"""Celery: a chord for items, a chain of tasks, two worker processes. The result is awaited by its id.

The handle that `chord()` returns looks at all parts each time it looks, which is quadratic; the id of the callback's
result is enough. Workers fetch 64 messages at a time and neither gossip nor mingle, as is advised for short tasks.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, chord
from celery import chain as chained
from celery.result import AsyncResult

from benchmarks.occasion import Occasion
from benchmarks.workers import PROCESSES, socket_path, workers
from benchmarks.workloads import WORKLOADS

WAIT_SECONDS = 60
NAME = "benchmarks.contestants.celery_chord"
WORKER = ("-A", NAME, "worker", "--concurrency", str(PROCESSES), "--without-gossip", "--without-mingle")

app = Celery(NAME)
app.conf.update(
    broker_url=f"redis+socket://{socket_path()}",
    result_backend=f"redis+socket://{socket_path()}",
    worker_prefetch_multiplier=64,
    result_chord_join_timeout=WAIT_SECONDS,
)


@app.task
def work(workload: str, item: int) -> Any:
    return WORKLOADS[workload].sync_body(item)


@app.task
def total(results: list[Any], workload: str) -> int:
    return WORKLOADS[workload].total(results)


@app.task
def step(steps: int) -> int:
    return steps + 1


def each_item(occasion: Occasion) -> int:
    with workers("celery", *WORKER):
        _chord(occasion, occasion.warm_up_items)
        with occasion.timed():
            return _chord(occasion, occasion.items)


def chain(occasion: Occasion) -> int:
    with workers("celery", *WORKER):
        _chain(2)
        with occasion.timed():
            return _chain(occasion.count)


def _chord(occasion: Occasion, items: range) -> int:
    name = occasion.workload.name
    result_id = chord(work.s(name, item) for item in items)(total.s(name)).id
    return int(AsyncResult(result_id, app=app).get(timeout=WAIT_SECONDS))


def _chain(steps: int) -> int:
    result_id = chained(step.s(0), *(step.s() for _ in range(steps - 1)))().id
    return int(AsyncResult(result_id, app=app).get(timeout=WAIT_SECONDS))
