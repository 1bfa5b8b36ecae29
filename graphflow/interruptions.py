"""What do Ctrl-C and SIGTERM do to a program that drives runs? The first drains them, the second ends the process at once.

Handlers are set as long as the main thread waits for a run (`draining`, `handled`), and only where nobody else has set theirs,
as the command does (`cli/signals.py`).
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

from graphflow.errors import RunInterrupted
from graphflow.settings import DEFAULT_DRAIN_SECONDS

#: What a process is asked to stop by.
NUMBERS = (signal.SIGINT, signal.SIGTERM)

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


@dataclass(eq=False, slots=True)
class Driven:
    """A run that a program drives, in `loop`."""

    run_id: str
    drain: Callable[[float], None]
    loop: asyncio.AbstractEventLoop
    is_stopped: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def raise_if_stopped(self) -> None:
        """RunInterrupted, also for a run that came to its end in spite of it: what follows in the program is not to begin.

        First the runs that were stopped with it in this loop end: who raises cuts off the others of a `gather`.
        """
        self.over.set()
        if not self.is_stopped:
            return
        for other in [other for other in _program.driven if other.loop is self.loop and other.is_stopped]:
            await other.over.wait()
        interrupted = RunInterrupted(self.run_id)
        interrupted.signal = _program.signal
        raise interrupted from None


class _Program:
    """The runs that this process drives, and how often its main thread waits for one."""

    def __init__(self) -> None:
        self.driven: list[Driven] = []
        self.is_stopping = False
        #: The number of the signal by which it is stopped.
        self.signal: int | None = None
        #: Calls in the main thread that wait for a run.
        self.waiting = 0
        self._handlers = Handlers(self._receive)

    def wait(self) -> None:
        if not self.waiting:
            self._handlers = Handlers(self._receive)
            self._handlers.set([number for number in NUMBERS if _is_free(number)])
        self.waiting += 1

    def wait_no_more(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self._handlers.put_back()
            self.is_stopping = False
            self.signal = None

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
        self.signal = number
        _exit_as_stopped()
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
    """What the first signal does, for who has learnt otherwise, within `handled`, that this process is to stop; False if it
    was done, and in a thread, where nobody is told when it is over."""
    if _program.is_stopping or threading.current_thread() is not threading.main_thread():
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


def _exit_as_stopped() -> None:
    """Have a program that does not catch RunInterrupted exit as shells expect of one that a signal has stopped, without a
    traceback: what there is to say was said. At a prompt it is shown as any other error."""
    before = sys.excepthook
    if not (isinstance(before, functools.partial) and before.func is _end_program):
        sys.excepthook = functools.partial(_end_program, before)


def _end_program(
    before: Callable[..., object],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    number = _signal_of(error)
    if number is None or hasattr(sys, "ps1"):
        before(kind, error, trace)
    else:
        raise SystemExit(128 + number)


def _signal_of(error: BaseException) -> int | None:
    """The number of the signal by which all of it was stopped."""
    if isinstance(error, BaseExceptionGroup):
        numbers = {_signal_of(each) for each in error.exceptions}
        return numbers.pop() if len(numbers) == 1 else None
    return error.signal if isinstance(error, RunInterrupted) else None


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
