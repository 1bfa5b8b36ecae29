"""Whose signal handlers are there while runs are driven, and after."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from graphflow import Agent, RedisCache, Task
from graphflow.interruptions import Handlers
from tests.helpers import run

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _pythons_own_handlers() -> Iterator[None]:
    before = [
        signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.signal(signal.SIGTERM, signal.SIG_DFL),
    ]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


def is_ours(handler: Any) -> bool:
    return isinstance(getattr(handler, "__self__", None), Handlers)


def agent_that_looks(seen: list[Any]) -> Agent:
    agent = Agent(cache=RedisCache("memory://interruptions"))

    @agent.node
    async def look():
        await asyncio.sleep(0)
        seen.append(handlers())

    return agent


def test_handlers_are_set_for_the_time_of_the_runs_and_put_back() -> None:
    seen: list[Any] = []
    agent = agent_that_looks(seen)
    before = handlers()

    async def several() -> tuple[list[Any], list[Any]]:
        within = handlers()
        await asyncio.gather(*(agent.run_task(Task(type="t")) for _ in range(3)))
        return within, handlers()

    within, after = run(several())

    assert all(is_ours(handler) for each in seen for handler in each)
    assert all(each == seen[0] for each in seen), "several runs have one handler"
    assert within == after, "that of asyncio.run is put back"
    assert handlers() == before


def test_handlers_of_somebody_else_stay() -> None:
    seen: list[Any] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, theirs := lambda *_: None)

    agent_that_looks(seen).run_task_sync(Task(type="t"))

    assert seen == [[signal.SIG_IGN, theirs]]


def test_handlers_that_a_framework_has_set_in_the_loop_stay() -> None:
    seen: list[Any] = []
    agent = agent_that_looks(seen)

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, print)
        theirs = handlers()
        await agent.run_task(Task(type="t"))
        assert handlers() == theirs
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        return theirs

    theirs = run(main())
    assert seen == [theirs]


def test_handlers_that_somebody_sets_meanwhile_stay() -> None:
    agent = Agent(cache=RedisCache("memory://interruptions"))

    async def main() -> None:
        loop = asyncio.get_running_loop()

        @agent.node(name="sets_too")
        async def sets_too():
            loop.add_signal_handler(signal.SIGTERM, print)

        await agent.run_task(Task(type="t"))
        assert not is_ours(signal.getsignal(signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        loop.remove_signal_handler(signal.SIGTERM)

    run(main())


def test_run_in_a_thread_sets_no_handlers() -> None:
    seen: list[Any] = []
    before = handlers()
    thread = threading.Thread(target=agent_that_looks(seen).run_task_sync, args=[Task(type="t")])
    thread.start()
    thread.join()

    assert seen == [before]


def exit_code_of_forked_child() -> int:
    begun, begins = os.pipe()
    child = os.fork()
    if not child:
        # A signal that comes before Python has made itself at home in the child is lost.
        os.write(begins, b".")
    while not child:
        time.sleep(0.01)
    assert os.read(begun, 1) == b"."
    for end in (begun, begins):
        os.close(end)
    os.kill(child, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_of_a_run_ends_by_sigterm() -> None:
    """As the processes of a pool do, which are ended so."""
    agent = Agent(cache=RedisCache("memory://interruptions"))

    @agent.node
    async def fork_and_end():
        return exit_code_of_forked_child()

    assert agent.run_task_sync(Task(type="t")).result == -signal.SIGTERM
