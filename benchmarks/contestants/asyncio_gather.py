"""asyncio alone, which keeps nothing: `gather`, and a semaphore where only three may work at a time."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.occasion import Occasion
from benchmarks.workloads import PROCESSORS


async def each_item(occasion: Occasion) -> int:
    await asyncio.gather(*map(occasion.body, occasion.warm_up_items))
    with occasion.timed():
        return occasion.total(await asyncio.gather(*map(occasion.body, occasion.items)))


async def seven(occasion: Occasion) -> int:
    processors = asyncio.Semaphore(PROCESSORS)

    async def one(item: int) -> Any:
        async with processors:
            return await occasion.body(item)

    with occasion.timed():
        return occasion.total(await asyncio.gather(*map(one, occasion.items)))
