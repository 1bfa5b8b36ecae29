"""The clock of `graphflow.testing`: time moves when it is told to, or when nothing else can happen."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from graphflow import Task, clock
from graphflow.errors import WaitsInVain
from graphflow.testing import TurnedClock
from tests.unit.scene import agent


def test_a_day_of_waiting_costs_nothing_and_is_exact() -> None:
    async def main() -> str:
        await asyncio.sleep(86_400)
        return "slept"

    turned = TurnedClock(datetime(2026, 3, 1, tzinfo=UTC))
    began = time.monotonic()
    assert turned.run(main()) == "slept"
    assert time.monotonic() - began < 60
    assert turned.seconds == 86_400
    assert turned.now == datetime(2026, 3, 2, tzinfo=UTC)


def test_timers_fire_in_the_order_of_their_times_and_never_before() -> None:
    async def main() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        fired: list[tuple[float, float]] = []
        for seconds in (0.3, 0.1, 1 / 3, 2.0000000004, 0.7):
            end = loop.time() + seconds
            loop.call_at(end, lambda end=end: fired.append((end, loop.time())))
        await asyncio.sleep(3)
        return fired

    fired = TurnedClock().run(main())
    assert [end for end, _ in fired] == sorted(end for end, _ in fired)
    assert len(fired) == 5
    assert all(end <= at for end, at in fired)


def test_who_asks_again_for_what_is_left_comes_to_an_end() -> None:
    """A timer that fired a hair too early would be set again, for a time too short for the clock to move."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1 / 7)
        end, looks = loop.time() + 10 / 3, 0
        while (left := end - loop.time()) > 0:
            looks += 1
            assert looks < 10
            await asyncio.sleep(left)
        return looks

    assert TurnedClock().run(main()) == 1


def test_timeouts_go_by_the_clock() -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await asyncio.Event().wait()

    turned = TurnedClock()
    with pytest.raises(TimeoutError):
        turned.run(main())
    assert turned.seconds == 60


def test_clock_that_does_not_jump_stands_still_until_it_is_turned() -> None:
    turned = TurnedClock(jumps=False)
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append(seconds)

    async def main() -> None:
        sleepers = [asyncio.create_task(sleeper(seconds)) for seconds in (5, 10)]
        await turned.settle()
        assert (woken, turned.seconds) == ([], 0)

        await turned.turn(7)
        assert (woken, turned.seconds) == ([5], 7)

        await turned.turn(3)
        assert woken == [5, 10]
        await asyncio.gather(*sleepers)

    turned.run(main())


def test_what_becomes_due_on_the_way_of_a_turn_may_make_more_due() -> None:
    turned = TurnedClock(jumps=False)
    ticks: list[float] = []

    async def ticking() -> None:
        while True:
            await asyncio.sleep(2)
            ticks.append(turned.seconds)

    async def main() -> None:
        task = asyncio.create_task(ticking())
        await turned.turn(7)
        assert ticks == [2, 4, 6]
        task.cancel()

    turned.run(main())


@pytest.mark.parametrize("jumps", [True, False])
def test_program_that_nothing_can_wake_is_an_error(jumps: bool) -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(WaitsInVain, match="it has no timer"):
        TurnedClock(jumps=jumps).run(main())


def test_timer_that_nobody_turns_the_clock_to_is_an_error() -> None:
    with pytest.raises(WaitsInVain, match="due in 5 s"):
        TurnedClock(jumps=False).run(asyncio.sleep(5))


def test_program_in_which_only_timers_come_to_pass_is_given_up() -> None:
    async def main() -> None:
        for _ in range(100):
            await asyncio.sleep(86_400)

    with pytest.raises(WaitsInVain, match="30 days"):
        TurnedClock().run(main())


def test_time_stands_still_while_a_thread_is_at_work() -> None:
    turned = TurnedClock()
    goes_on = threading.Event()

    async def main() -> None:
        blocked = asyncio.create_task(asyncio.to_thread(goes_on.wait))
        soon = asyncio.create_task(asyncio.sleep(0.5))
        asyncio.get_running_loop().call_soon(threading.Timer(0.05, goes_on.set).start)
        await blocked
        assert not soon.done()
        assert turned.seconds == 0
        await soon

    turned.run(main())
    assert turned.seconds == 0.5


def test_sync_functions_of_a_graph_take_no_time() -> None:
    made = agent()

    @made.node
    def slow():
        time.sleep(0.02)
        return 1

    @made.node
    def then(slow):
        return slow + 1

    turned = TurnedClock()
    assert turned.run(made.run_task(Task(type="test")))["then"] == 2
    assert turned.seconds < 0.02


def test_engine_and_loop_and_stored_times_go_by_one_clock() -> None:
    made = agent()

    @made.node
    async def waits():
        await asyncio.sleep(90)

    turned = TurnedClock(datetime(2030, 1, 1, tzinfo=UTC))
    outcome = turned.run(made.run_task(Task(type="test"), run_id="r"))

    assert outcome.seconds == 90
    assert datetime.fromtimestamp(outcome.finished, UTC) == turned.now
    assert turned.now - datetime(2030, 1, 1, tzinfo=UTC) == timedelta(seconds=90)


def test_two_clocks_are_not_turned_at_once() -> None:
    async def main() -> None:
        coroutine = asyncio.sleep(0)
        try:
            with pytest.raises(RuntimeError, match="another clock"):
                TurnedClock().run(coroutine)
        finally:
            coroutine.close()

    TurnedClock().run(main())


def test_clock_of_the_process_goes_on_afterwards() -> None:
    TurnedClock(datetime(2000, 1, 1, tzinfo=UTC)).run(asyncio.sleep(1))

    assert abs(clock.now() / 1000 - time.time()) < 60


def test_while_a_connection_is_open_the_clock_goes_as_any_other() -> None:
    turned = TurnedClock()

    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        began = time.monotonic()
        await asyncio.sleep(0.02)
        assert time.monotonic() - began >= 0.015
        server.close()
        await server.wait_closed()

    turned.run(main())
    assert turned.seconds >= 0.015
