"""Brings messages to the module runs that wait for them. Who waits has no slot, no place in the line, and its time
stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from graphflow.engine.attempt import Attempt
from graphflow.engine.drive import Drive
from graphflow.engine.line import Line
from graphflow.engine.slots import Slots
from graphflow.inputs import MessagesSent
from graphflow.planning.plan import PlanNode
from graphflow.run import Message
from graphflow.state.mailboxes import Mailboxes
from graphflow.state.view import Owner
from graphflow.transition import Transition

Found = tuple[str, str]


@dataclass(slots=True, eq=False)
class _Waiting:
    """A module run that waits; `found` is (mailbox, text) of its message, None when its patience has ended."""

    attempt: Attempt
    mailboxes: Sequence[str]
    found: asyncio.Future[Found | None]


class Messages:
    """The messages of one run, and who waits for them here."""

    def __init__(self, drive: Drive, slots: Slots, line: Line) -> None:
        self._drive = drive
        self._slots = slots
        self._line = line
        self.mailboxes = Mailboxes(drive.run.mailboxes, on_free=self._deliver)
        #: Who came first is served first.
        self._waiting: list[_Waiting] = []

    async def send_now(self, messages: Sequence[Message], owner: Owner) -> None:
        """Deliver before the sender's commit; returns when they are stored."""
        assert isinstance(owner, Attempt)
        await self._drive.fold_now(MessagesSent(messages), owner)

    async def wait_for_message(
        self, mailboxes: Sequence[str], timeout: float | None, owner: Owner
    ) -> Found | None:
        """A message reserved for `owner`, or None after `timeout` seconds; waiting for a slot comes on top."""
        assert isinstance(owner, Attempt)
        found = self.mailboxes.reserve(mailboxes)
        if found is not None:
            return found
        waiting = _Waiting(owner, mailboxes, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._step_aside(owner)
        timer = None if timeout is None else self._drive.timers.after(timeout, _give_up, waiting)
        try:
            found = await waiting.found
            await self._slots.come_back(owner)
        except BaseException:
            if found is not None:
                self.mailboxes.release(*found)
            elif waiting.found.done() and not waiting.found.cancelled() and (late := waiting.found.result()):
                self.mailboxes.release(*late)
            self._slots.let_come_back(owner)
            raise
        finally:
            self._waiting.remove(waiting)
            if timer is not None:
                self._drive.timers.cancel(timer)
        return found

    def _step_aside(self, attempt: Attempt) -> None:
        """Its slot and its place in the line are free for others."""
        if not attempt.is_aside:
            self._slots.step_aside(attempt)
            self._line.step_aside(attempt)
            self._drive.wake()

    def react(self, transition: Transition) -> None:
        for mailbox in dict.fromkeys(message.mailbox for message in transition.sent):
            self._deliver(mailbox)

    def _deliver(self, mailbox: str) -> None:
        for waiting in self._waiting:
            if mailbox in waiting.mailboxes and not waiting.found.done():
                found = self.mailboxes.reserve((mailbox,))
                if found is None:
                    return
                waiting.found.set_result(found)

    def drop(self, attempt: Attempt) -> None:
        """The attempt is over: what it left behind waits in vain."""
        for waiting in self._waiting:
            if waiting.attempt is attempt:
                waiting.found.cancel()

    @property
    def is_delivering(self) -> bool:
        """Somebody's wait is over who has not gone on yet: a commit need not give the event loop a turn."""
        return any(waiting.found.done() for waiting in self._waiting)

    @property
    def stalled(self) -> tuple[PlanNode, str] | None:
        """Which node waits in vain if nothing else is under way, of several one of the deepest, and that in words; None
        if nobody waits here."""
        scopes = self._drive.plan.scopes
        waiting = max(
            (waiting for waiting in self._waiting if not waiting.found.done()),
            key=lambda waiting: scopes[waiting.attempt.node.scope].depth,
            default=None,
        )
        if waiting is None:
            return None
        node, mailboxes = waiting.attempt.node, " or ".join(map(repr, waiting.mailboxes))
        return node, (
            f"stalled: {node.name!r} waits for a message in {mailboxes}, which nothing will send; "
            "give get_message a timeout, or let it wait_for_signal what comes from outside"
        )


def _give_up(waiting: _Waiting) -> None:
    if not waiting.found.done():
        waiting.found.set_result(None)
