"""What a module run reads from, and what it has read: the state behind a transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any, Protocol

from graphflow.graph.tasks import Task
from graphflow.ids import ItemNumber
from graphflow.run import Message, Place
from graphflow.state.claims import Claims
from graphflow.state.footprint import KEY_SET, WHOLE_STATE, node_key
from graphflow.state.mailboxes import Mailboxes


class Owner(Protocol):
    """The module run that a transaction belongs to."""

    @property
    def place(self) -> Place: ...

    @property
    def place_text(self) -> str:
        """As stored: `NODE:VISIT:MODULE:ITEM`."""

    @property
    def sender(self) -> str:
        """How its messages call it: its node's name in its own graph."""

    @property
    def input_mailboxes(self) -> Sequence[str]:
        """What its module reads messages from if it names no mailbox."""


class StateView(Protocol):
    """A run's state as a transaction reads it. Revisions only grow; 0 is that of what was never there.

    Names are those of the whole run: in a sub-graph all that a module names has the `prefix` before it.
    """

    @property
    def prefix(self) -> str:
        """What names begin with in the graph of the module run: "" or `research/`."""

    @property
    def borders(self) -> Sequence[str]:
        """What the names inside of its sub-graphs begin with, which are not for it."""

    @property
    def revision(self) -> int:
        """Moves whenever anything below may have changed."""

    @property
    def keys_revision(self) -> int:
        """Revision of the last change of the set of keys."""

    @property
    def claims(self) -> Claims: ...

    @property
    def expiring(self) -> Collection[str]:
        """The keys that have an end."""

    def text(self, key: str) -> str | None: ...

    def key_revision(self, key: str) -> int:
        """Revision of the key's last change; a deleted key keeps that of its deletion."""

    def keys(self) -> Collection[str]: ...

    def node_text(self, name: str) -> str | None:
        """The result of a node; None if it has none, or was skipped when it was last considered."""

    def node_revision(self, name: str) -> int: ...

    def is_map(self, name: str) -> bool:
        """Whether `name` is a map node whose result is the list of its records; they are also its state key."""

    def has_records(self, name: str) -> bool:
        """Whether `name` is a map node, one whose results are reduced included."""

    def has_map_results(self, name: str) -> bool:
        """Whether the map node `name` succeeded when it was last considered."""

    def map_pages(self, name: str) -> AsyncIterator[list[tuple[ItemNumber, str]]]:
        """Its results as index and text, in input order, a page at a time."""

    def task(self) -> Task:
        """A fresh copy."""

    async def set_now(self, key: str, text: str, ttl: float | None, asker: Owner | None) -> None:
        """Set a key in a transaction of its own, for `ttl` seconds from then or for good; returns when it is committed.
        The place in the line of `asker`, who asks for it, counts."""


class Steps(Protocol):
    """What the steps of module runs came to."""

    async def remembered(self, place: Place, field: str) -> str | None:
        """What is remembered in this field for this place."""

    def fields(self, place: Place) -> Collection[str]:
        """Those that hold something for this place."""

    async def remember(self, place: Place, field: str, text: str) -> str:
        """Store it at once; returns what stands there, which is the first that was stored."""

    async def call(self, owner: Owner, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function where module bodies run: a sync one in a thread."""


class Messages(Protocol):
    """The mailboxes of a run, and the waiting for what comes into them."""

    @property
    def mailboxes(self) -> Mailboxes: ...

    async def send_now(self, messages: Sequence[Message], owner: Owner) -> None:
        """Deliver messages before the commit; returns when they are committed."""

    async def wait_for_message(
        self, mailboxes: Sequence[str], timeout: float | None, owner: Owner
    ) -> tuple[str, str] | None:
        """A reserved message of one of these mailboxes when there is one; None after `timeout` seconds. The module run
        has no slot and no place in the line meanwhile."""


class Reads:
    """What one module run has read, each with the revision of its first read."""

    __slots__ = ("_keys", "_keyset", "_nodes", "whole_state")

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}
        self._nodes: dict[str, int] = {}
        self._keyset: int | None = None
        #: The whole state was asked for; its keys and the set of them are noted as well.
        self.whole_state = False

    def note_key(self, view: StateView, key: str) -> None:
        if key not in self._keys:
            self._keys[key] = view.key_revision(key)

    def note_node(self, view: StateView, name: str) -> None:
        if name not in self._nodes:
            self._nodes[name] = view.node_revision(name)

    def note_keyset(self, view: StateView) -> None:
        if self._keyset is None:
            self._keyset = view.keys_revision

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    @property
    def include_keyset(self) -> bool:
        return self._keyset is not None

    def still_hold(self, view: StateView) -> bool:
        """Whether everything is as it was read."""
        return (
            (self._keyset is None or view.keys_revision == self._keyset)
            and all(view.key_revision(key) == was for key, was in self._keys.items())
            and all(view.node_revision(name) == was for name, was in self._nodes.items())
        )

    def by_name(self, view: StateView) -> dict[str, bool]:
        """In the words of a footprint: what was read -> whether it has changed since."""
        lost = {key: view.key_revision(key) != was for key, was in self._keys.items()}
        if self._keyset is not None:
            lost[KEY_SET] = view.keys_revision != self._keyset
        if self.whole_state:
            lost = {WHOLE_STATE: any(lost.values())}
        for name, was in self._nodes.items():
            lost[node_key(name)] = view.node_revision(name) != was
        return lost
