"""A clock to turn: an event loop whose time moves only when it is told to, or when nothing else can happen."""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any, TypeVar, TypeVarTuple, Unpack

from graphflow import clock
from graphflow.clock import Action, Alarm
from graphflow.errors import WaitsInVain
from graphflow.executors.threads import PATIENCE_SECONDS, at_work

T = TypeVar("T")
_Ts = TypeVarTuple("_Ts")

#: What clocks begin with unless told otherwise.
START = datetime(2026, 1, 1, tzinfo=UTC)
#: Times that there are in a second.
GRID = 1e9
#: Seconds of its own time after which a clock that jumps from timer to timer gives up.
MAX_SECONDS = 30 * 86_400.0


class TurnedClock:
    """The time of one event loop, and of the engine in it.

    `clock.run(main())` is `asyncio.run(main())` under this clock: `asyncio.sleep`, timeouts, retries, deadlines, leases
    and the times that runs are stored with all go by it. When nothing else can happen it jumps to the next timer, so
    that an hour of waiting costs nothing. With `jumps=False` it stands still until somebody calls `turn`.

    While a thread is at work (a sync function of a graph, `asyncio.to_thread`) it stands still, unless it is being
    turned. While a socket or a pipe is open it cannot know whether something is coming, and goes as any clock. One clock
    is turned at a time in a process; a second one raises RuntimeError.
    """

    def __init__(
        self, start: datetime = START, *, jumps: bool = True, on_idle: Callable[[], bool] = lambda: False
    ) -> None:
        """`start` says when it is at first, with its time zone. `on_idle` is called whenever nothing can happen but that
        time goes on; True if it has brought something about."""
        self._start_ns = round(start.timestamp() * 1e9)
        self._jumps = jumps
        self._on_idle = on_idle
        self._seconds = 0.0
        self._turns = 0
        #: Who waits until nothing can happen: those that have turned, threads or not, and the others.
        self._turned: list[asyncio.Future[None]] = []
        self._settling: list[asyncio.Future[None]] = []
        self._loop: _Loop | None = None

    @property
    def seconds(self) -> float:
        """Since the clock was made, in its own time; to the microsecond."""
        return round(self._seconds, 6)

    @property
    def now(self) -> datetime:
        """In UTC."""
        return datetime.fromtimestamp(self.time_ns() / 1e9, UTC)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns, run in a new event loop under this clock.

        WaitsInVain if nothing can happen any more, or after 30 days of jumping.
        """
        with clock.taken_from(self), asyncio.Runner(loop_factory=self._new_loop) as runner:
            return runner.run(main)

    async def turn(self, seconds: float) -> None:
        """Move on, through all that becomes due on the way; returns when all of that has happened. Threads at work are not
        waited for: `settle` does that."""
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()
        self._turns += 1
        timer = loop.call_later(seconds, arrived.set_result, None)
        try:
            await arrived
        finally:
            timer.cancel()
            self._turns -= 1
        await self._wait_idle(self._turned)

    async def settle(self) -> None:
        """Returns when nothing can happen but that time goes on."""
        await self._wait_idle(self._settling)

    async def _wait_idle(self, waiting: list[asyncio.Future[None]]) -> None:
        idle = asyncio.get_running_loop().create_future()
        waiting.append(idle)
        await idle

    # What graphflow.clock asks of a source

    def time_ns(self) -> int:
        return self._start_ns + round(self._seconds * 1e9)

    def monotonic(self) -> float:
        return self._seconds

    def thread_time(self) -> float:
        return self._seconds

    def alarm(self, action: Action, name: str) -> Alarm:
        assert self._loop is not None
        return _LoopAlarm(self._loop, action)

    # What its event loop asks

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        self._loop = _Loop(self)
        return self._loop

    def wait(self, look: Callable[[float | None], list[Any]], timeout: float | None) -> list[Any]:
        """What is ready when the loop has nothing left to do for `timeout` seconds, None for ever."""
        loop = self._loop
        assert loop is not None
        if self._turned:
            _wake(self._turned)
        elif self._turns and timeout is not None:
            self._go_on(timeout)
        elif loop.threads or at_work(loop):
            return self._wait_for_threads(look, timeout)
        elif self._settling:
            _wake(self._settling)
        elif self._on_idle():
            pass
        elif loop.has_connections:
            return self._wait_as_others(look, timeout)
        elif timeout is None or not self._jumps:
            what = "it has no timer" if timeout is None else f"its next timer is due in {timeout:g} s"
            raise WaitsInVain(f"nothing can happen any more, and nobody turns the clock ({what})")
        elif self._seconds >= MAX_SECONDS:
            raise WaitsInVain("for 30 days nothing but timers has come to pass")
        else:
            self._go_on(timeout)
        return []

    def _wait_for_threads(
        self, look: Callable[[float | None], list[Any]], timeout: float | None
    ) -> list[Any]:
        if timeout is None or timeout > PATIENCE_SECONDS:
            return look(None)
        # The timer by which a call that waits for a thread gets one of its own.
        events = look(timeout)
        if not events:
            self._go_on(timeout)
        return events

    def _wait_as_others(self, look: Callable[[float | None], list[Any]], timeout: float | None) -> list[Any]:
        began = clock.outside()
        events = look(timeout)
        self._go_on(clock.outside() - began)
        return events

    def move_to(self, seconds: float) -> None:
        """Let it be so late. What is due by then comes to pass when the loop has its next turn."""
        self._seconds = max(self._seconds, _on_grid(seconds))

    def _go_on(self, seconds: float) -> None:
        self._seconds = _on_grid(self._seconds + seconds)


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    for idle in waiting:
        if not idle.done():
            idle.set_result(None)
    waiting.clear()


def _on_grid(seconds: float) -> float:
    return round(seconds * GRID) / GRID


class _Selector(selectors.DefaultSelector):
    clock: TurnedClock

    def select(self, timeout: float | None = None) -> list[Any]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        return self.clock.wait(super().select, timeout)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that goes by a clock."""

    def __init__(self, turned: TurnedClock) -> None:
        self._turned = turned
        #: Threads under way that have been asked for by `run_in_executor`, or are waited for at the end.
        self.threads = 0
        self._own_selector = selector = _Selector()
        selector.clock = turned
        super().__init__(selector)
        self._own_files = len(selector.get_map())

    def time(self) -> float:
        return self._turned.monotonic()

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        # On the grid, so that no timer fires a hair before its time: whoever then waited for the rest would wait for ever.
        later = 0 if _on_grid(when) >= when else 1 / GRID
        return super().call_at(_on_grid(when + later), callback, *args, context=context)

    @property
    def has_connections(self) -> bool:
        """Somebody has opened a socket or a pipe in it."""
        return len(self._own_selector.get_map()) > self._own_files

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], T], *args: *_Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        self.threads += 1
        await super().shutdown_default_executor(*args, **options)
        self.threads -= 1

    def _thread_ended(self, _: object) -> None:
        self.threads -= 1


class _LoopAlarm:
    """Calls from the loop itself, as one of its timers."""

    def __init__(self, loop: asyncio.AbstractEventLoop, action: Action) -> None:
        self._loop = loop
        self._action = action
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def wake(self) -> None:
        self._loop.call_soon_threadsafe(self._call)

    def close(self) -> None:
        self._is_closed = True

    def _call(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_closed:
            return
        seconds = self._action()
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._call)
