"""Whole runs in which bodies work on beyond their time: who waits for them, for how long, and who does not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from graphflow import Agent, RunInterrupted, RunResult, RunStatus, Task
from graphflow.testing import TurnedClock
from tests.unit.scene import agent, turned

#: After the end of its time a coroutine is left behind within so many seconds.
GRACE = 2
TIMEOUT = 100


class Work:
    """A node `work` whose attempts ignore their cancellation for `seconds`, but for the last one, which succeeds."""

    def __init__(self, made: Agent, *, seconds: float, attempts: int = 2, **options: Any) -> None:
        #: When attempts began, and how many were at work at most.
        self.begun: list[float] = []
        self.most = 0
        at_work = 0

        @made.node(max_concurrency=1, timeout=TIMEOUT, max_retries=attempts, **options)
        async def work(cache):
            nonlocal at_work
            loop = asyncio.get_running_loop()
            self.begun.append(loop.time())
            at_work += 1
            self.most = max(self.most, at_work)
            end = loop.time() + (seconds if len(self.begun) < max(2, attempts) else 0)
            while loop.time() < end:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(end - loop.time())
            at_work -= 1
            await cache.publish_to_mailbox("told", "done")
            return "done"


def at_once(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "may now run at once" in record.message]


async def result_of(made: Agent, **options: Any) -> RunResult:
    return await made.run_task(Task(type="test"), **options)


def test_next_attempt_starts_when_the_one_before_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: TurnedClock) -> None:
        made = agent()
        work = Work(made, seconds=150)

        outcome = await result_of(made)

        assert (outcome.status, outcome["work"]) == (RunStatus.COMPLETE, "done")
        assert work.most == 1
        assert work.begun == pytest.approx([0, 150], abs=0.1)
        assert at_once(caplog) == []

    turned(main)


def test_run_goes_on_beside_a_body_that_never_ends(caplog: pytest.LogCaptureFixture) -> None:
    """It waits for longer than it may stand still."""

    async def main(clock: TurnedClock) -> None:
        made = agent(stall_seconds=20)
        work = Work(made, seconds=10_000)

        outcome = await result_of(made)

        assert (outcome.status, outcome["work"]) == (RunStatus.COMPLETE, "done")
        assert work.begun == pytest.approx([0, 2 * TIMEOUT], abs=GRACE)
        [warning] = at_once(caplog)
        assert "node 'work' is still at work 100 s after it was left behind" in warning
        assert "max_concurrency=1" in warning
        assert "is_cancelled()" in warning

    turned(main)


def test_items_go_on_beside_one_that_never_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: TurnedClock) -> None:
        made = agent(stall_seconds=20)
        begun: list[tuple[int, float]] = []

        @made.node(map_over="xs", max_concurrency=1, timeout=TIMEOUT, max_retries=1)
        async def work(item):
            begun.append((item, clock.seconds))
            while item == 0:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(10_000)
            return item

        outcome = await result_of(made, state={"xs": [0, 1, 2]})

        assert (outcome.status, outcome["work"]) == (RunStatus.PARTIAL, [1, 2])
        assert [item for item, _ in begun] == [0, 1, 2]
        assert [time for _, time in begun] == pytest.approx([0, 2 * TIMEOUT, 2 * TIMEOUT], abs=GRACE)
        [warning] = at_once(caplog)
        assert "item 0 of node 'work'" in warning

    turned(main)


def test_who_waits_for_a_message_of_the_next_attempt_gets_it() -> None:
    """The run does not count as one in which nobody will send it."""

    async def main(clock: TurnedClock) -> None:
        made = agent()
        Work(made, seconds=150)

        @made.node
        async def listens(cache):
            return await cache.get_message("told")

        outcome = await result_of(made)

        assert (outcome.status, outcome["listens"]) == (RunStatus.COMPLETE, "done")

    turned(main)


def test_run_in_which_nobody_will_send_a_message_fails_beside_a_body_that_never_ends() -> None:
    async def main(clock: TurnedClock) -> None:
        made = agent()
        Work(made, seconds=10_000, attempts=1)

        @made.node
        async def listens(cache):
            return await cache.get_message("told")

        outcome = await result_of(made)

        assert outcome.status is RunStatus.FAILED
        assert "which nothing will send" in str(outcome.error)
        assert clock.seconds == pytest.approx(TIMEOUT, abs=2 * GRACE)

    turned(main)


def test_end_of_a_run_does_not_wait_for_a_body_that_was_left_behind() -> None:
    async def main(clock: TurnedClock) -> None:
        made = agent()
        Work(made, seconds=10_000, attempts=1)

        outcome = await result_of(made)

        assert outcome.status is RunStatus.FAILED
        assert clock.seconds == pytest.approx(TIMEOUT, abs=2 * GRACE)

    turned(main)


@pytest.mark.parametrize("how", ["drain", "cancel"])
def test_run_that_waits_for_a_body_that_was_left_behind_is_drained_and_cancelled_as_any(how: str) -> None:
    async def main(clock: TurnedClock) -> None:
        made = agent(lease_seconds=1)
        work = Work(made, seconds=10_000)
        running = asyncio.create_task(result_of(made, run_id="waits"))
        await asyncio.sleep(TIMEOUT + GRACE + 1)
        assert not running.done()
        began = clock.seconds

        if how == "drain":
            made.drain(30)
            with pytest.raises(RunInterrupted):
                await running
        else:
            await made.cancel("waits")
            assert (await running).status is RunStatus.CANCELLED

        assert clock.seconds - began < 5
        assert len(work.begun) == 1

    turned(main)
