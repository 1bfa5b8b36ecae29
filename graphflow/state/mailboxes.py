"""Which messages of a run wait to be taken, and which of these are reserved for a module run that is under way?

A message stays in its mailbox until the module run that took it commits; if that fails, the message is free again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence


class Mailboxes:
    """Messages by mailbox, for all transactions of one run. `on_free` is called with a mailbox that has a free one."""

    def __init__(
        self, stored: Mapping[str, Sequence[str]], on_free: Callable[[str], None] = lambda mailbox: None
    ) -> None:
        self._stored = stored
        self._on_free = on_free
        self._reserved: dict[str, set[str]] = {}

    def reserve(self, mailboxes: Sequence[str]) -> tuple[str, str] | None:
        """(mailbox, text) of the oldest free message of the first of these mailboxes that has one."""
        for mailbox in mailboxes:
            reserved = self._reserved.setdefault(mailbox, set())
            for text in self._stored.get(mailbox, ()):
                if text not in reserved:
                    reserved.add(text)
                    return mailbox, text
        return None

    def release(self, mailbox: str, text: str) -> None:
        """Whoever had reserved it is over. If it was taken, its commit has removed it from the mailbox by now."""
        self._reserved[mailbox].discard(text)
        if text in self._stored.get(mailbox, ()):
            self._on_free(mailbox)
