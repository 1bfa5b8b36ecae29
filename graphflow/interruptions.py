"""What do Ctrl-C and SIGTERM do to a process that drives runs? The first stops what it does, the second ends it at once.

A command has `Interruptions` around all that it does. In a program of one's own handlers are set as long as the main thread
waits for a run (`draining`, `handled`), and only where nobody else has set theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, TypeVar

from graphflow.errors import RunInterrupted
from graphflow.settings import DEFAULT_DRAIN_SECONDS

T = TypeVar("T")

_NUMBERS = (signal.SIGINT, signal.SIGTERM)

#: Runs that the line on how to go on names.
RUNS_NAMED = 5


class Handlers:
    """From `set` to `put_back` the first signal calls `first` with its number; the second ends the process at once.

    Handlers of Python, not of the loop: they also reach a process whose loop is blocked. `last_words` is what a process
    that ends so says on stderr.
    """

    def __init__(self, first: Callable[[int], None], last_words: str = "") -> None:
        #: The number of the first signal; 0 before it.
        self.received = 0
        self._first = first
        self._last_words = last_words
        self._process = 0
        self._before: dict[int, Any] = {}

    def set(self, numbers: Iterable[int]) -> None:
        self._process = os.getpid()
        self._before = {number: signal.signal(number, self._receive) for number in numbers}

    def put_back(self) -> None:
        """What was there before, unless somebody has set another since."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._receive:
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._process != os.getpid():
            _as_if_never_set(number, frame)
        elif not self.received:
            self.received = number
            self._first(number)
        elif number == signal.SIGINT and hasattr(sys, "ps1"):
            # Who types at a prompt, a notebook's among them, wants to keep what is in memory.
            raise KeyboardInterrupt
        else:
            if self._last_words:
                os.write(2, f"{self._last_words}\n".encode())
            os._exit(128 + number)


def _as_if_never_set(number: int, frame: FrameType | None) -> None:
    """In a forked child: what is to be stopped is its parent's, and `terminate()` of a process pool has to end it."""
    if number == signal.SIGINT:
        signal.default_int_handler(number, frame)
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


# Commands


class Interrupted(Exception):
    """The command was asked to stop, and did. `exit_code` is what shells expect of that."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class Interruptions:
    """As long as the block lasts, the first signal stops what `run` runs, or is raised where nothing runs.

    After a first signal the handlers stay, so that the second also ends a process that waits for a thread which does not
    end.
    """

    def __init__(self, last_words: str = "") -> None:
        self._handlers = Handlers(self._receive, last_words)
        self._drain: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Interruptions:
        self._handlers.set(_NUMBERS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._handlers.received:
            self._handlers.put_back()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """`asyncio.run`; raises `Interrupted` if a signal stopped it. What ends in spite of a signal has its result."""
        try:
            return asyncio.run(self._watched(coroutine))
        except (asyncio.CancelledError, RunInterrupted):
            if not self._handlers.received:
                raise
            raise Interrupted(self._handlers.received) from None

    @contextlib.contextmanager
    def draining(self, drain: Callable[[], None]) -> Iterator[None]:
        """As long as the block lasts, a signal calls `drain` in the loop instead of cancelling what runs."""
        self._drain = drain
        try:
            yield
        finally:
            self._drain = None

    async def _watched(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            return await coroutine
        finally:
            self._loop = self._task = None

    def _receive(self, number: int) -> None:
        if self._loop is None or self._task is None:
            raise Interrupted(number)
        # In the loop, so that it comes between two steps of what runs: a call that is to be drained has begun by then.
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._drain is not None:
            self._drain()
        elif self._task is not None:
            self._task.cancel()


# Programs of one's own


@dataclass(eq=False, slots=True)
class Driven:
    """A run that a program drives, in `loop`."""

    run_id: str
    drain: Callable[[float], None]
    loop: asyncio.AbstractEventLoop
    is_stopped: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_others(self) -> None:
        """Until the runs that were stopped with it in this loop are over: who raises cuts off the others of a `gather`."""
        self.over.set()
        if not self.is_stopped:
            return
        for other in [other for other in _program.driven if other.loop is self.loop and other.is_stopped]:
            await other.over.wait()


class _Program:
    """The runs that this process drives, and how often its main thread waits for one."""

    def __init__(self) -> None:
        self.driven: list[Driven] = []
        self.is_stopping = False
        self._waiting = 0
        self._handlers = Handlers(self._receive)

    def wait(self) -> None:
        if not self._waiting:
            self._handlers = Handlers(self._receive)
            self._handlers.set([number for number in _NUMBERS if _is_free(number)])
        self._waiting += 1

    def wait_no_more(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._handlers.put_back()
            self.is_stopping = False

    def stop(self) -> None:
        """Drain every run, those in other threads too, and whatever is begun meanwhile."""
        self.is_stopping = True
        self.drain(self.driven)

    def drain(self, driven: Iterable[Driven]) -> None:
        stopped = [each for each in list(driven) if not each.is_stopped]
        for each in stopped:
            each.is_stopped = True
        if stopped:
            _say(_how_to_go_on([each.run_id for each in stopped]))
        for each in stopped:
            with contextlib.suppress(RuntimeError):  # The loop may be closed by now.
                each.loop.call_soon_threadsafe(each.drain, DEFAULT_DRAIN_SECONDS)

    def _receive(self, number: int) -> None:
        self.stop()


_program = _Program()
_is_within_run = contextvars.ContextVar("graphflow_is_within_run", default=False)


@contextlib.contextmanager
def draining(run_id: str, drain: Callable[[float], None]) -> Iterator[Driven]:
    """As long as the block lasts the run is driven in this loop, and drained by Ctrl-C and SIGTERM: `drain` is called there
    with the seconds that what runs gets to end.

    A run that a module of another one drives is left to that one, which would take the interruption for a failure.
    """
    driven = Driven(run_id, drain, asyncio.get_running_loop())
    if _is_within_run.get():
        yield driven
        return
    within = _is_within_run.set(True)
    _program.driven.append(driven)
    try:
        with handled():
            if _program.is_stopping:
                _program.drain([driven])
            yield driven
    finally:
        driven.over.set()
        _program.driven.remove(driven)
        _is_within_run.reset(within)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """As long as the block lasts Ctrl-C and SIGTERM drain the runs that this process drives, those in threads too.

    Handlers are set in the main thread only, for all such blocks together, and where nobody else has set theirs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _program.wait()
    try:
        yield
    finally:
        _program.wait_no_more()


def stop_driven() -> bool:
    """What the first signal does, for who has learnt otherwise that this process is to stop; False if it was done."""
    if _program.is_stopping:
        return False
    _program.stop()
    return True


def _is_free(number: int) -> bool:
    """The handler is Python's own, or the one that `asyncio.run` sets for the time of its main task."""
    handler = signal.getsignal(number)
    if number == signal.SIGTERM:
        return handler is signal.SIG_DFL
    if isinstance(handler, functools.partial):
        return getattr(handler.func, "__func__", None) is getattr(asyncio.Runner, "_on_sigint", handler)
    return handler is signal.default_int_handler


def _how_to_go_on(run_ids: Sequence[str]) -> str:
    grace = f"what runs gets {DEFAULT_DRAIN_SECONDS:g} s to finish, a second signal ends it at once"
    if len(run_ids) == 1:
        (run_id,) = run_ids
        go_on = f"graphflow resume {run_id}, or the same call with run_id={run_id!r}"
    else:
        more = f" and {len(run_ids) - RUNS_NAMED} more" if len(run_ids) > RUNS_NAMED else ""
        go_on = f"await agent.recover(), or graphflow resume RUN for {', '.join(run_ids[:RUNS_NAMED])}{more}"
    return f"stopping: {grace}; go on with: {go_on}"


def _say(line: str) -> None:
    """On stderr, which for a notebook is its page, whatever the signal has interrupted."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (RuntimeError, OSError, ValueError):
        # It came amidst a write to stderr, which may also be closed.
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode())
