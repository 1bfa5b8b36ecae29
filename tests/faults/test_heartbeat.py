"""The thread that keeps leases alive, when the store fails it, the lease is gone or the event loop does not move."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from graphflow.engine.heartbeat import Heartbeat
from graphflow.errors import StoreUnreachable
from graphflow.ids import RunId
from graphflow.store.contract import Lease
from tests.helpers import wait_until

LEASE = Lease(RunId("beating"), "1-abcd", "host:1:2", 0.03)


class FakeRenewer:
    """Answers renewals with what it is told to; counts them."""

    def __init__(self) -> None:
        self.answer: int | Exception | None = 0
        self.renewals = 0
        self.is_closed = False

    def renew(self, lease: Lease) -> int | None:
        assert not self.is_closed
        self.renewals += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None:
        self.is_closed = True

    def wait_renewals(self, count: int) -> None:
        wanted = self.renewals + count
        wait_until(lambda: self.renewals >= wanted, what=f"{count} renewals")


class FakeLoop:
    """An event loop that runs what it is given at once, unless it is blocked."""

    def __init__(self) -> None:
        self.is_blocked = False
        self._waiting: list[Callable[[], None]] = []

    def call(self, function: Callable[[], None]) -> None:
        self._waiting.append(function)
        if not self.is_blocked:
            self.go_on()

    def go_on(self) -> None:
        self.is_blocked = False
        while self._waiting:
            self._waiting.pop()()


class Scene:
    def __init__(self, stall_seconds: float) -> None:
        self.renewer = FakeRenewer()
        self.loop = FakeLoop()
        self.lost = threading.Event()
        self.inboxes: list[int] = []
        self.heartbeat = Heartbeat(lambda: self.renewer, stall_seconds=stall_seconds)
        self.heartbeat.keep(LEASE, lost=self.lost.set, inbox=self.inboxes.append, call_in_loop=self.loop.call)


@contextmanager
def beating(stall_seconds: float = 10.0) -> Iterator[Scene]:
    scene = Scene(stall_seconds)
    try:
        yield scene
    finally:
        scene.heartbeat.close()
    assert scene.renewer.is_closed


def test_lease_is_renewed_until_it_is_dropped() -> None:
    with beating() as scene:
        scene.renewer.wait_renewals(3)
        scene.heartbeat.drop(LEASE)
        dropped_at = scene.renewer.renewals

    assert scene.renewer.renewals <= dropped_at + 1, "one renewal may have been under way"
    assert not scene.lost.is_set()


def test_lease_of_another_is_reported_once_and_not_renewed_again() -> None:
    with beating() as scene:
        scene.renewer.answer = None
        assert scene.lost.wait(10)
        after = scene.renewer.renewals

    assert scene.renewer.renewals == after


def test_store_that_fails_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    with beating() as scene:
        scene.renewer.answer = StoreUnreachable("redis://here", "it sleeps")
        scene.renewer.wait_renewals(3)
        scene.renewer.answer = 0
        scene.renewer.wait_renewals(2)

    assert not scene.lost.is_set()
    assert "beating" in caplog.text


def test_waiting_requests_are_reported() -> None:
    with beating() as scene:
        scene.renewer.answer = 2
        wait_until(lambda: 2 in scene.inboxes)


def test_lease_of_a_run_whose_loop_is_blocked_for_long_is_not_renewed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with beating(stall_seconds=0.1) as scene:
        scene.loop.is_blocked = True
        wait_until(lambda: "blocked" in caplog.text, what="the complaint")
        stalled_at = scene.renewer.renewals
        beat = threading.Event()
        # Several beats later still nothing was renewed.
        beat.wait(5 * LEASE.seconds)
        assert scene.renewer.renewals == stalled_at

        scene.loop.go_on()

        scene.renewer.wait_renewals(2)
    assert caplog.text.count("blocked") == 1
