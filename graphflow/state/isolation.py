"""How is the state that one module run sees kept apart from what others do meanwhile? In names and texts.

What it reads is remembered with its revision, so that it never sees two states; what it writes is buffered. Keys and
values, and until when a module may use them, are up to `transaction.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphflow.errors import StateError
from graphflow.state.claims import ClaimedItem, Where
from graphflow.state.footprint import Footprint
from graphflow.state.view import Reads, StateView
from graphflow.state.writes import Writes


class Overtaken(BaseException):
    """Something this module run has read has changed since: the run ends at once and is repeated.

    No failure, so no `except Exception` sees it. Inside a task group it arrives wrapped in a BaseExceptionGroup: ask
    `is_valid` before taking any exception of a module run for a failure.
    """


class IsolatedState:
    """A run's state as one module run sees it. Each read may raise Overtaken."""

    __slots__ = ("_checked", "_claimed", "_immediate", "_reads", "_view", "_writes", "is_patient")

    def __init__(self, view: StateView) -> None:
        self._view = view
        self._reads: Reads | None = None
        self._writes: Writes | None = None
        self._claimed: list[ClaimedItem] = []
        #: Names set with immediate=True.
        self._immediate: frozenset[str] = frozenset()
        #: Revision of the view at which reads and claims were last known to hold.
        self._checked = -1
        #: Reads raise nothing now; what they are worth is asked at the end.
        self.is_patient = False

    # Reads, which are checked

    def text(self, name: str) -> str | None:
        """With what this run itself has written."""
        if self._writes is None:
            return self.stored(name)
        if self._writes.replaces(name):
            self.check_not_immediate(name)
            return self._writes.applied_to(self._view, name, None)
        return self._writes.applied_to(self._view, name, self.stored(name))

    def stored(self, name: str) -> str | None:
        """Without it."""
        self.check_not_immediate(name)
        self._noted().note_key(self._view, name)
        return self._view.text(name)

    def exists(self, name: str) -> bool:
        if self._writes is not None and name in self._writes:
            self.check_not_immediate(name)
            return self._writes.leave(name)
        return self.stored(name) is not None

    def names(self, prefix: str, suffix: str) -> list[str]:
        """Those with this prefix and suffix, sorted; reads the set of keys."""
        self._noted().note_keyset(self._view)
        names = set(self._view.keys())
        if self._writes is not None:
            for name in self._writes:
                (names.add if self._writes.leave(name) else names.discard)(name)
        if prefix or suffix:
            shortest = len(prefix) + len(suffix) + 1
            names = {
                name
                for name in names
                if len(name) >= shortest and name.startswith(prefix) and name.endswith(suffix)
            }
        return sorted(names)

    def read_whole_state(self) -> None:
        """Besides the set of keys and each of them."""
        self._noted().whole_state = True

    def read_node(self, name: str) -> None:
        """The result of a node."""
        self._noted().note_node(self._view, name)

    def check_reads(self) -> None:
        """Overtaken if something that was read or claimed is no longer so; later, if this `is_patient`."""
        revision = self._view.revision
        if revision != self._checked:
            if self.is_valid(self._view):
                self._checked = revision
            elif not self.is_patient:
                raise Overtaken

    def _noted(self) -> Reads:
        """Where the next read is noted."""
        if self._reads is None:
            self._reads = Reads()
        self.check_reads()
        return self._reads

    # Writes, which are buffered, and claims

    def replace(self, name: str, text: str | None, ttl: float | None = None) -> None:
        """Set, for `ttl` seconds from the commit or for good, or with None delete."""
        if self._has_claimed(name):
            raise StateError(
                f"cannot set or delete {name!r}: this module run has claimed an item of it; use its .set()"
            )
        self._buffered().replace(name, text, ttl)

    def operate(self, name: str, operation: str, argument: Any) -> None:
        self._buffered().operate(name, operation, argument)

    def replaces(self, name: str) -> bool:
        """Whether it was set or deleted, so that what is stored of it no longer counts."""
        return self._writes is not None and self._writes.replaces(name)

    def claim(
        self, name: str, where: Where, on_change: Callable[[ClaimedItem, str], None]
    ) -> ClaimedItem | None:
        """The first free item that satisfies `where`; checked like a read."""
        self.check_reads()
        text = self._view.text(name)
        found = None if text is None else self._view.claims.reserve(name, text, where)
        if found is None:
            return None
        claimed = ClaimedItem(name, *found, on_change=on_change)
        self._claimed.append(claimed)
        return claimed

    def change_item(self, claimed: ClaimedItem, text: str) -> None:
        self._buffered().change_item(claimed.key, claimed.index, text)

    def release_claims(self) -> None:
        """Free them for others."""
        claimed, self._claimed = self._claimed, []
        for item in claimed:
            self._view.claims.release(item.key, item.index)

    def _has_claimed(self, name: str) -> bool:
        return bool(self._claimed) and any(claimed.key == name for claimed in self._claimed)

    def _buffered(self) -> Writes:
        if self._writes is None:
            self._writes = Writes()
        return self._writes

    # What is set at once, in a transaction of its own

    def note_immediate(self, name: str) -> None:
        """StateError if it is read or written otherwise."""
        is_used = (
            (self._writes is not None and name in self._writes)
            or self._has_claimed(name)
            or (self._reads is not None and name in self._reads)
            or (self._reads is not None and self._reads.include_keyset and self._view.text(name) is None)
        )
        if is_used:
            raise StateError(
                f"cannot set {name!r} with immediate=True: this module run reads or writes it otherwise; "
                "use a key of its own for progress values"
            )
        self._immediate |= {name}

    def check_not_immediate(self, name: str) -> None:
        if name in self._immediate:
            raise StateError(
                f"{name!r} was set with immediate=True in this module run, which may not read or write it otherwise; "
                f"peek({name!r}) shows the stored value"
            )

    # What it all comes to

    @property
    def is_empty(self) -> bool:
        """True if nothing was read, written or claimed."""
        return self._reads is None and self._writes is None and not self._claimed

    def is_valid(self, view: StateView) -> bool:
        """Whether everything that was read is still as it was read, and every claimed item what was claimed."""
        return (self._reads is None or self._reads.still_hold(view)) and (
            not self._claimed
            or all(claimed.is_unchanged(view.claims, view.text) for claimed in self._claimed)
        )

    def resolve(
        self, view: StateView, max_value_bytes: int, max_transaction_bytes: int
    ) -> dict[str, str | None]:
        """The names that change on the state in `view`, with their final texts; None deletes."""
        return (
            {} if self._writes is None else self._writes.resolve(view, max_value_bytes, max_transaction_bytes)
        )

    def ttls(self, view: StateView) -> dict[str, float | None]:
        """As `Writes.ttls`."""
        return {} if self._writes is None else self._writes.ttls(view)

    def footprint(self) -> Footprint:
        reads = {} if self._reads is None else self._reads.by_name(self._view)
        return Footprint(
            reads=frozenset(reads),
            writes=frozenset() if self._writes is None else self._writes.footprint(self._view),
            lost=frozenset(name for name, is_lost in reads.items() if is_lost),
        )
