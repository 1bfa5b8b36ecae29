"""A bare pool of processes, one for each processor, which keeps nothing."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor

from benchmarks.occasion import Occasion


def each_item(occasion: Occasion) -> int:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(occasion.body, occasion.warm_up_items))
        with occasion.timed():
            return occasion.total(pool.map(occasion.body, occasion.items))
