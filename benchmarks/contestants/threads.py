"""A bare pool of threads that pull items from one list, which keeps nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from benchmarks.occasion import Occasion

THREADS = 4


def each_item(occasion: Occasion) -> int:
    _each_item(occasion, occasion.warm_up_items)
    with occasion.timed():
        return _each_item(occasion, occasion.items)


def _each_item(occasion: Occasion, items: range) -> int:
    source = iter(items)
    one_at_a_time = threading.Lock()
    results: list[Any] = []

    def pull() -> Iterator[int]:
        while True:
            with one_at_a_time:
                if (item := next(source, None)) is None:
                    return
            yield item

    def work() -> None:
        results.extend([occasion.body(item) for item in pull()])

    workers = [threading.Thread(target=work) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return occasion.total(results)
