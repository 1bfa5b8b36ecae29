"""The heartbeat of leases, by a turned clock."""

from __future__ import annotations

import pytest

from graphflow.engine.heartbeat import Heartbeat
from graphflow.errors import StoreUnreachable
from graphflow.ids import RunId
from graphflow.store.contract import Lease
from graphflow.testing import TurnedClock
from tests.unit.scene import turned


class Renewals:
    """A renewer that answers what it is told to; `times` says when it was asked for which lease."""

    def __init__(self, clock: TurnedClock) -> None:
        self.clock = clock
        self.answer: int | Exception | None = 0
        self.times: list[tuple[str, float]] = []
        self.is_closed = False

    def renew(self, lease: Lease) -> int | None:
        self.times.append((lease.token, round(self.clock.seconds, 3)))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None:
        self.is_closed = True


class Kept:
    """A heartbeat with what it has told; its loop runs nothing while it `is_blocked`."""

    def __init__(self, clock: TurnedClock, stall_seconds: float = 100) -> None:
        self.renewals = Renewals(clock)
        self.heartbeat = Heartbeat(lambda: self.renewals, stall_seconds=stall_seconds)
        self.lost: list[str] = []
        self.inbox: list[int] = []
        self.is_blocked = False
        self._asked = []

    def keep(self, token: str, seconds: float) -> Lease:
        lease = Lease(RunId("kept"), token, "me", seconds)
        self.heartbeat.keep(
            lease,
            lost=lambda: self.lost.append(token),
            inbox=self.inbox.append,
            call_in_loop=self._call,
            at_work=lambda: "node 'busy'",
        )
        return lease

    def _call(self, function) -> None:
        if self.is_blocked:
            self._asked.append(function)
        else:
            function()

    def go_on(self) -> None:
        self.is_blocked = False
        for function in self._asked:
            function()


def test_each_lease_is_renewed_three_times_before_it_would_end() -> None:
    async def main(clock: TurnedClock) -> None:
        kept = Kept(clock)
        kept.keep("a", 9)
        kept.keep("b", 6)

        await clock.turn(6.5)

        assert kept.renewals.times == [("b", 2), ("a", 3), ("b", 4), ("a", 6), ("b", 6)]

    turned(main)


def test_lease_that_was_dropped_is_not_renewed() -> None:
    async def main(clock: TurnedClock) -> None:
        kept = Kept(clock)
        lease = kept.keep("a", 9)
        await clock.turn(3.5)

        kept.heartbeat.drop(lease)

        await clock.turn(20)
        assert kept.renewals.times == [("a", 3)]

    turned(main)


def test_lease_of_another_is_reported_once_and_not_renewed_again() -> None:
    async def main(clock: TurnedClock) -> None:
        kept = Kept(clock)
        kept.keep("a", 9)
        kept.renewals.answer = None

        await clock.turn(30)

        assert kept.lost == ["a"]
        assert kept.renewals.times == [("a", 3)]

    turned(main)


def test_requests_that_wait_are_reported_with_each_renewal() -> None:
    async def main(clock: TurnedClock) -> None:
        kept = Kept(clock)
        kept.keep("a", 9)
        await clock.turn(4)
        kept.renewals.answer = 2

        await clock.turn(6)

        assert kept.inbox == [2, 2]

    turned(main)


def test_store_that_fails_is_asked_again_soon(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: TurnedClock) -> None:
        kept = Kept(clock)
        kept.keep("a", 9)
        kept.renewals.answer = StoreUnreachable("redis://here", "it sleeps")
        await clock.turn(3.5)
        kept.renewals.answer = 0

        await clock.turn(1)

        assert kept.renewals.times == [("a", 3), ("a", 3.2), ("a", 3.4), ("a", 3.6)]
        assert kept.lost == []
        assert "lease not renewed, trying again" in caplog.text

    turned(main)


def test_lease_whose_loop_is_blocked_is_not_renewed_until_it_runs_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(clock: TurnedClock) -> None:
        kept = Kept(clock, stall_seconds=10)
        kept.keep("a", 9)
        await clock.turn(4)
        kept.is_blocked = True
        await clock.turn(16)
        silent_at = len(kept.renewals.times)
        await clock.turn(30)
        assert len(kept.renewals.times) == silent_at
        assert caplog.text.count("has been blocked for") == 1
        assert caplog.text.count("node 'busy' has held up the event loop") == 1

        kept.go_on()
        await clock.turn(3)

        assert len(kept.renewals.times) == silent_at + 1

    turned(main)


def test_closed_heartbeat_renews_nothing_and_closes_its_renewer() -> None:
    async def main(clock: TurnedClock) -> None:
        kept = Kept(clock)
        kept.keep("a", 9)
        await clock.turn(4)

        kept.heartbeat.close()

        await clock.turn(20)
        assert kept.renewals.times == [("a", 3)]
        assert kept.renewals.is_closed

    turned(main)
