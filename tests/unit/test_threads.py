"""Threads for sync bodies: reused when idle, never waited for when they hang, and honest about what was raised."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from graphflow.executors.threads import Threads
from tests.helpers import run, wait_until


def with_threads(main: Callable[[Threads], Coroutine[Any, Any, Any]]) -> Any:
    async def body() -> Any:
        threads = Threads(pytest.fail)
        try:
            return await main(threads)
        finally:
            threads.close()

    return run(body())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call does not get another thread because the machine keeps the first one from it for a while."""
    monkeypatch.setattr("graphflow.executors.threads.PATIENCE_SECONDS", 60.0)


def test_idle_thread_is_used_again(patient: None) -> None:
    async def main(threads: Threads) -> set[str]:
        return {await threads.run(lambda: threading.current_thread().name, (), {}) for _ in range(20)}

    assert len(with_threads(main)) == 1


def test_calls_at_the_same_time_have_a_thread_each() -> None:
    together = threading.Barrier(8, timeout=30)

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


def test_end_of_a_body_that_was_given_up_is_told_when_it_comes() -> None:
    begun, release = threading.Event(), threading.Event()
    ended: list[str] = []

    def hangs() -> None:
        begun.set()
        release.wait(10)

    async def main(threads: Threads) -> None:
        hanging = asyncio.create_task(threads.run(hangs, (), {}, lambda: ended.append("hangs")))
        await until(begun.is_set)
        never_begun = asyncio.create_task(threads.run(hangs, (), {}, lambda: ended.append("never begun")))
        await asyncio.sleep(0)
        for task in (hanging, never_begun):
            task.cancel()
        await asyncio.wait([hanging, never_begun])

        await until(lambda: ended == ["never begun"])
        release.set()
        await until(lambda: len(ended) == 2)

    with_threads(main)
    assert ended == ["never begun", "hangs"]


def test_result_of_a_body_that_was_given_up_is_dropped_and_its_thread_used_again(patient: None) -> None:
    release = threading.Event()

    async def main(threads: Threads) -> set[str]:
        given_up = asyncio.create_task(threads.run(release.wait, (10,), {}))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        release.set()
        return {await threads.run(lambda: threading.current_thread().name, (), {}) for _ in range(50)}

    assert len(with_threads(main)) == 1


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


# Calls that no task waits for


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads make it true
            await asyncio.sleep(0.001)


def test_what_calls_come_to_is_reported_in_the_event_loop() -> None:
    async def main(threads: Threads) -> None:
        reports: list[tuple[int, str, int]] = []

        def ended(number: int, name: str) -> None:
            reports.append((number, name, threading.get_ident()))

        for number in range(200):
            threads.start(lambda _: threading.current_thread().name, number, ended)
        await until(lambda: len(reports) == 200)

        assert sorted(number for number, _, _ in reports) == list(range(200))
        assert all(name.startswith("graphflow-worker-") for _, name, _ in reports)
        assert {ident for _, _, ident in reports} == {threading.get_ident()}

    with_threads(main)


def test_calls_that_end_before_the_loop_looks_are_reported_with_one_wake_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(threads: Threads) -> None:
        loop = asyncio.get_running_loop()
        wake, wakes, results = loop.call_soon_threadsafe, [], []
        await threads.run(lambda: None, (), {})

        monkeypatch.setattr(
            loop, "call_soon_threadsafe", lambda *args, **named: wakes.append(wake(*args, **named))
        )
        for number in range(50):
            threads.start(lambda number: number * 2, number, lambda _, result: results.append(result))
        # The loop is not let go before all of them have ended.
        wait_until(lambda: len(threads._ended) == 50)
        await until(lambda: len(results) == 50)

        assert sorted(results) == [number * 2 for number in range(50)]
        # Two threads may both find that nobody has asked yet.
        assert len(wakes) <= 5

    with_threads(main)


def test_one_thread_is_enough_for_calls_that_follow_each_other(patient: None) -> None:
    async def main(threads: Threads) -> None:
        names: list[str] = []
        for number in range(30):
            threads.start(
                lambda _: threading.current_thread().name, number, lambda _, name: names.append(name)
            )
            await until(lambda: len(names) == number + 1)  # noqa: B023 - awaited at once

        assert len(set(names)) == 1

    with_threads(main)


def test_calls_do_not_wait_behind_one_that_hangs() -> None:
    release = threading.Event()

    async def main(threads: Threads) -> None:
        ended: list[int] = []
        threads.start(lambda _: release.wait(10), -1, lambda number, _: ended.append(number))
        for number in range(20):
            threads.start(lambda number: number, number, lambda number, _: ended.append(number))
        await until(lambda: len(ended) == 20)
        assert -1 not in ended

        release.set()
        await until(lambda: len(ended) == 21)
        assert ended[-1] == -1

    with_threads(main)


def test_report_that_fails_does_not_keep_the_others_from_being_made() -> None:
    async def main(threads: Threads) -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        heard: list[int] = []

        def ended(number: int, _: None) -> None:
            if number % 3 == 0:
                raise ValueError(number)
            heard.append(number)

        for number in range(9):
            threads.start(lambda _: None, number, ended)
        await until(lambda: len(heard) == 6 and len(complaints) == 3)

    with_threads(main)


def test_calls_wait_for_a_thread_when_no_more_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = threading.Event()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if not thread.name.startswith("graphflow-worker-"):
            start(thread)
            return
        refused.set()
        raise RuntimeError("can't start new thread")

    def body() -> str:
        assert refused.wait(10)
        return threading.current_thread().name

    async def main(threads: Threads) -> None:
        only = await threads.run(lambda: threading.current_thread().name, (), {})
        monkeypatch.setattr(threading.Thread, "start", refuse)
        names = await asyncio.gather(*(threads.run(body, (), {}) for _ in range(5)))

        assert set(names) == {only}

    with_threads(main)

    assert "no more than 1 threads can be started" in caplog.text


def test_end_of_the_interpreter_without_a_thread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 starts no thread once the main one has ended."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    async def main() -> None:
        told = asyncio.Event()
        threads = Threads(told.set)
        call = asyncio.create_task(threads.run(lambda: None, (), {}))
        await asyncio.wait_for(told.wait(), 10)
        call.cancel()
        threads.close()

    ended = threading.Thread()
    monkeypatch.setattr(threading, "main_thread", lambda: ended)
    monkeypatch.setattr(threading.Thread, "start", refuse)

    run(main())


def test_call_that_was_given_up_before_a_thread_had_time_for_it_is_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, made = threading.Event(), []

    async def main(threads: Threads) -> None:
        await threads.run(lambda: None, (), {})
        monkeypatch.setattr(threading.Thread, "start", lambda _: None)
        busy = asyncio.create_task(threads.run(release.wait, (10,), {}))
        given_up = asyncio.create_task(threads.run(made.append, (1,), {}))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        release.set()
        await busy
        await threads.run(lambda: None, (), {})

    with_threads(main)

    assert made == []


def test_nothing_of_a_call_is_kept_when_it_has_been_reported() -> None:
    class Big:
        pass

    async def main(threads: Threads) -> None:
        big = Big()
        seen = weakref.ref(big)
        ended: list[int] = []
        threads.start(lambda _: None, big, lambda *_: ended.append(1))
        del big
        await until(lambda: ended)
        await until(lambda: gc.collect() >= 0 and seen() is None)

    with_threads(main)
