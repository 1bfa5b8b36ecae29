"""What is to be done? Each workload has its items, what happens to each of them, and the answer it must come to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

#: Seconds that an item of `io` waits, that a subtask of `seven` takes, and that an item of `cpu` computes.
WAIT_SECONDS = 1.0
SUBTASK_SECONDS = 0.05
COMPUTE_SECONDS = 0.05
PROCESSORS = 3
RESULT_BYTES = 10 * 1024


async def double(item: int) -> int:
    return 2 * item


def double_sync(item: int) -> int:
    return 2 * item


async def double_after_a_second(item: int) -> int:
    await asyncio.sleep(WAIT_SECONDS)
    return 2 * item


def double_after_a_second_sync(item: int) -> int:
    time.sleep(WAIT_SECONDS)
    return 2 * item


async def double_after_50_ms(item: int) -> int:
    await asyncio.sleep(SUBTASK_SECONDS)
    return 2 * item


async def text(item: int) -> str:
    return "x" * RESULT_BYTES


def text_sync(item: int) -> str:
    return "x" * RESULT_BYTES


def double_with_effort(item: int) -> int:
    """Uses 50 ms of processor time; time spent waiting for a processor does not count."""
    until = time.thread_time() + COMPUTE_SECONDS
    while time.thread_time() < until:
        pass
    return 2 * item


def doubled(count: int) -> int:
    """What the doubles of the items come to: 2 * (0 + 1 + ... + count - 1)."""
    return count * (count - 1)


def length(texts: Iterable[str]) -> int:
    return sum(len(one) for one in texts)


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    what: str
    #: What happens to each item (0, 1, 2, ...); None where there are no items.
    body: Callable[[int], Any] | None = double
    #: The same for those who call functions in threads or in workers.
    sync_body: Callable[[int], Any] = double_sync
    #: The answer, made from the results of all items.
    total: Callable[[Iterable[Any]], int] = sum
    #: The answer that `count` items must come to.
    answer: Callable[[int], int] = doubled
    #: The contestant that shows how far this machine goes; its ratio is shown beside graphflow's.
    limit: str | None = None


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "fanout",
            "split, process, aggregate: items that do nothing but double a number",
            limit="limit-commit",
        ),
        Workload(
            "chain",
            "steps that do nothing, one after another, the state stored after each",
            body=None,
            answer=lambda count: count,
            limit="limit-lua",
        ),
        Workload(
            "io",
            "items that wait a second each, all at once",
            body=double_after_a_second,
            sync_body=double_after_a_second_sync,
            limit="limit-commit",
        ),
        Workload(
            "payload",
            "results of 10 KiB each",
            body=text,
            sync_body=text_sync,
            total=length,
            answer=lambda count: count * RESULT_BYTES,
            limit="limit-commit",
        ),
        Workload("seven", "subtasks of 50 ms on three processors", body=double_after_50_ms, limit="asyncio"),
        Workload("sync", "sync functions in a map, in threads", body=double_sync, limit="threads"),
        Workload(
            "cpu",
            "items of 50 ms of computing each",
            body=double_with_effort,
            sync_body=double_with_effort,
            limit="process-pool",
        ),
        Workload("memory", "items from a generator, results read as a stream: resident memory"),
        Workload("footprint", "what the items of a fan-out leave in Redis", limit="limit-commit"),
    )
}
