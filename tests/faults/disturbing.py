"""Something done to a server again and again while a test goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def again_and_again(disturb: Callable[[], object], seconds: float) -> Iterator[None]:
    """Disturb every so many seconds, from a thread, as long as the block lasts. What disturbing raises is raised after it."""
    is_over = threading.Event()
    errors: list[Exception] = []

    def repeat() -> None:
        try:
            while not is_over.wait(seconds):
                disturb()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    if errors:
        raise errors[0]
