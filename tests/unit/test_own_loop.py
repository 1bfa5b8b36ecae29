"""A coroutine in an event loop of its own, and who gives it up."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
from collections.abc import Iterator

import pytest

from graphflow import own_loop
from graphflow.own_loop import in_own_loop
from tests.helpers import run

somebody = contextvars.ContextVar[str]("somebody")


@pytest.fixture(autouse=True)
def _interrupt_by_alarm() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def alarm() -> None:
    """Have the main thread interrupted very soon."""
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def test_what_it_returns_or_raises_comes_with_the_context_of_who_calls() -> None:
    async def who() -> str:
        return somebody.get()

    async def fail() -> str:
        raise ValueError("no")

    async def main() -> str:
        somebody.set("Ada")
        with pytest.raises(ValueError, match="no"):
            in_own_loop(fail)
        return in_own_loop(who)

    assert run(main()) == "Ada"


def test_interrupted_wait_cancels_what_it_waits_for() -> None:
    is_cancelled = threading.Event()

    async def hang() -> None:
        alarm()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            is_cancelled.set()
            raise

    with pytest.raises(KeyboardInterrupt):
        in_own_loop(hang)

    assert is_cancelled.wait(20)


def test_interrupted_wait_goes_on_to_the_end_if_it_is_to() -> None:
    interrupted, ended = threading.Event(), threading.Event()

    def waits_on() -> bool:
        interrupted.set()
        return True

    async def end_later() -> None:
        alarm()
        await asyncio.to_thread(interrupted.wait)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        in_own_loop(end_later, waits_on)

    assert ended.is_set()


def test_what_is_given_up_before_it_has_begun_does_not_begin() -> None:
    calls: list[str] = []

    async def begin() -> None:
        calls.append("begun")

    call = own_loop._Call(begin)
    call.give_up()
    call.start()

    with pytest.raises(asyncio.CancelledError):
        call.result()
    assert calls == []
