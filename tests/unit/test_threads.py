"""Threads for sync bodies: reused when idle, never waited for when they hang, and honest about what was raised."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from graphflow.executors.threads import Threads
from tests.helpers import run, wait_until


def with_threads(main: Callable[[Threads], Coroutine[Any, Any, Any]]) -> Any:
    async def body() -> Any:
        threads = Threads()
        try:
            return await main(threads)
        finally:
            threads.close()

    return run(body())


def test_idle_thread_is_used_again() -> None:
    async def main(threads: Threads) -> set[str]:
        return {await threads.run(lambda: threading.current_thread().name, (), {}) for _ in range(20)}

    assert len(with_threads(main)) == 1


def test_calls_at_the_same_time_have_a_thread_each() -> None:
    together = threading.Barrier(8, timeout=5)

    async def main(threads: Threads) -> list[int]:
        return await asyncio.gather(*(threads.run(together.wait, (), {}) for _ in range(8)))

    assert sorted(with_threads(main)) == list(range(8))


def test_body_that_hangs_takes_no_thread_from_the_next() -> None:
    release = threading.Event()

    async def main(threads: Threads) -> str:
        hanging = asyncio.create_task(threads.run(release.wait, (10,), {}))
        await asyncio.sleep(0)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        return str(await threads.run(lambda: "next", (), {}))

    assert with_threads(main) == "next"
    release.set()


def test_result_of_a_body_that_was_given_up_is_dropped_and_its_thread_used_again() -> None:
    release = threading.Event()

    async def main(threads: Threads) -> set[str]:
        given_up = asyncio.create_task(threads.run(release.wait, (10,), {}))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        release.set()
        return {await threads.run(lambda: threading.current_thread().name, (), {}) for _ in range(50)}

    assert len(with_threads(main)) <= 2


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (ValueError("plain"), ValueError),
        (SystemExit(1), SystemExit),
        (StopIteration(3), RuntimeError),
        (GeneratorExit(), RuntimeError),
    ],
)
def test_what_the_body_raises_is_raised_to_the_caller(
    error: BaseException, seen: type[BaseException]
) -> None:
    def body() -> None:
        raise error

    async def main(threads: Threads) -> BaseException | None:
        try:
            await threads.run(body, (), {})
        except BaseException as raised:
            return raised
        return None

    raised = with_threads(main)

    assert type(raised) is seen
    assert type(error).__name__ in repr(raised)


def test_closed_threads_end() -> None:
    async def main(threads: Threads) -> str:
        return str(await threads.run(lambda: threading.current_thread().name, (), {}))

    name = with_threads(main)

    wait_until(lambda: name not in {thread.name for thread in threading.enumerate()})
