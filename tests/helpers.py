"""Small things that many tests need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: Within this something has happened at once, also on a machine that does much else: less than what is waited in vain.
SOON_SECONDS = 20.0


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop of its own."""
    return asyncio.run(coroutine)


def wait_until(condition: Callable[[], object], *, timeout_seconds: float = 30.0, what: str = "") -> None:
    """Wait for a condition in blocking code; fail, naming it, when it does not come true."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_seconds} s in vain for {what or condition}"
        time.sleep(0.01)
