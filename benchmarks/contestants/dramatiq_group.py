"""dramatiq: a group whose results are read in the end; two worker processes of eight threads."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.occasion import Occasion
from benchmarks.workers import PROCESSES, socket_path, workers
from benchmarks.workloads import WORKLOADS

THREADS = 8
WAIT_MILLISECONDS = 60_000
WORKER = (__name__, "--processes", str(PROCESSES), "--threads", str(THREADS))

URL = f"unix://{socket_path()}"
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def work(workload: str, item: int) -> Any:
    return WORKLOADS[workload].sync_body(item)


def each_item(occasion: Occasion) -> int:
    with workers("dramatiq", *WORKER):
        _group(occasion, occasion.warm_up_items)
        with occasion.timed():
            return _group(occasion, occasion.items)


def _group(occasion: Occasion, items: range) -> int:
    group = dramatiq.group([work.message(occasion.workload.name, item) for item in items]).run()
    return occasion.total(group.get_results(block=True, timeout=WAIT_MILLISECONDS))
