"""Where does a body run that must not run on the event loop? Behind one protocol, whatever the place.

What an executor is handed can be sent elsewhere as far as what it consists of can: functions by reference, arguments
as values, a name for logs and traces.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeVar


class Work(NamedTuple):
    """A call of a sync function that sees to everything itself: it raises nothing, and what it returns is data, or holds
    what is to be awaited in the event loop."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    #: `RUN/NODE`, for logs and traces.
    name: str


class Asker(Protocol):
    """Who has work done, and may want it no more."""

    def is_unwanted(self) -> bool:
        """Called from wherever the work is done in this process."""


A = TypeVar("A", bound=Asker)


class Executor(AbstractContextManager["Executor"], Protocol):
    """Runs bodies while the block lasts; it does not wait for those that hang."""

    async def execute(
        self, function: Callable[..., Any], *args: Any, ended: Callable[[], None] | None = None
    ) -> Any:
        """The function's return value; what it raises is raised here. A coroutine function runs on the loop.

        `ended` is called in the event loop when the call has ended, also where whoever asked for it was cancelled and does
        not wait for that.
        """

    async def in_thread(
        self, function: Callable[..., Any], arguments: dict[str, Any], ended: Callable[[], None]
    ) -> Any:
        """The same for a function that is known to be sync, with arguments by name."""

    def start(self, work: Work, asker: A, ended: Callable[[A, Any], None]) -> None:
        """Have work done that nobody awaits: `ended(asker, what it returned)` is called in the event loop when it has ended,
        wanted or not.

        Work that is unwanted when its turn comes is not begun, and ends with None.
        """
