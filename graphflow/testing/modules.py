"""A module alone: its cache is a transaction as in a run, over state that the test gives it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from graphflow.codec import decode, encode
from graphflow.errors import AnswerRefused, WaitsInVain
from graphflow.graph.flow import names_of
from graphflow.graph.tasks import Task
from graphflow.ids import FIRST_MODULE, ItemNumber, NodeNumber, enumerate_items
from graphflow.run import Message, Place, message_text
from graphflow.state.claims import Claims
from graphflow.state.effects import Suspended
from graphflow.state.mailboxes import Mailboxes
from graphflow.state.names import checked_name, initial_texts
from graphflow.state.transaction import Transaction
from graphflow.values import value_text

#: Where the module run of a test is.
_PLACE = Place(NodeNumber(0), 1, FIRST_MODULE)
_NODE = "module"


class ModuleCache(Transaction):
    """The `Cache` of one module run in a test, and what has become of it."""

    def __init__(self, view: _View, mailboxes: Sequence[str]) -> None:
        super().__init__(view, _Owner(mailboxes), view, view)
        self._module_view = view

    @property
    def state(self) -> dict[str, Any]:
        """The state by key: inside the block with what has been written so far, after it as it was committed."""
        texts = self._module_view.texts
        writes = {} if self.has_ended else self.resolve(self._module_view)
        return {key: decode(text, key) for key, text in {**texts, **writes}.items() if text is not None}

    @property
    def ttls(self) -> dict[str, float]:
        """The seconds that keys have from the commit on which were set with a `ttl`; no time passes in a test of a module
        alone."""
        view = self._module_view
        if self.has_ended:
            return dict(view.expiring)
        return view.ttls_after(self.resolve(view), self.resolve_ttls(view))

    @property
    def sent(self) -> list[tuple[str, Any]]:
        """(mailbox, message) of what was published, the first one first: after the block what has left with the commit."""
        messages = [*self._module_view.sent, *(() if self.has_ended else self.outgoing)]
        return [(message.mailbox, decode(message.text)["value"]) for message in messages]

    @property
    def steps(self) -> list[tuple[str, Any]]:
        """(name, result) of the steps whose functions were called, in their order."""
        return [(name, decode(text, name)) for name, text in self._module_view.called]

    @property
    def awaited_signal(self) -> str | None:
        """The signal for which the module run ended, since it was not among those given, or was refused."""
        return None if self.awaits is None else self.awaits.signal

    @property
    def refused(self) -> str | None:
        """Why the module run did not accept the answer that it was given last; None if it did."""
        return None if self.awaits is None else self.awaits.refused


@asynccontextmanager
async def module_cache(
    state: Mapping[str, Any] | None = None,
    *,
    task: Task | None = None,
    results: Mapping[str, Any] | None = None,
    messages: Mapping[str, Sequence[Any]] | None = None,
    input_mailboxes: str | Sequence[str] = (),
    signals: Mapping[str, Any] | None = None,
    overdue: Collection[str] = (),
    steps: Mapping[str, Any] | None = None,
    item: Any = None,
    index: int | None = None,
) -> AsyncIterator[ModuleCache]:
    """A cache for one module run: `async with module_cache(state={...}) as cache: await module.process(cache, semaphore)`.

    `state` holds values by key, `results` those of nodes by name, `messages` lists by mailbox, the oldest first;
    `signals` has the answer to every `wait_for_signal` of a name, `steps` what is remembered of a step by its name: its
    function is not called. `item` and `index` (0 unless given) are those of a map's item.

    When the block ends what was written is committed, and `cache.state` shows it; if it raises, nothing is. A
    `wait_for_signal` for which there is no answer ends the block without a commit, as it ends a module run, and
    `cache.awaited_signal` names it; so does an answer that is refused, and `cache.refused` says why. A signal whose name is in
    `overdue` has had its timeout: NoSignal. `get_message` with a timeout raises NoMessage at once where there is no message, and
    WaitsInVain without one. UnstorableValue, ValueTooLarge, InvalidName for what cannot be given.
    """
    view = _View(initial_texts(state or {}), task or Task(type="test"))
    view.results = {name: value_text(name, value) for name, value in (results or {}).items()}
    view.answers = {
        checked_name("signal", name): value_text(name, value) for name, value in (signals or {}).items()
    }
    view.overdue = frozenset(checked_name("signal", name) for name in overdue)
    view.remembered_steps = {name: value_text(name, value) for name, value in (steps or {}).items()}
    for mailbox, values in (messages or {}).items():
        view.put(checked_name("mailbox", mailbox), values)
    cache = ModuleCache(view, names_of(input_mailboxes))
    if item is not None or index is not None:
        cache.set_item(ItemNumber(index or 0), encode(item, "item"))
    try:
        yield cache
    except Suspended:
        cache.end()
        return
    except AnswerRefused as refusal:
        cache.end()
        if not cache.refuse(str(refusal)):
            raise
        return
    except BaseException:
        cache.end()
        raise
    writes, ttls = cache.resolve(view), cache.resolve_ttls(view)
    sent, taken = [*cache.outgoing], [*cache.taken]
    cache.end()
    view.commit(writes, ttls, sent, taken)


class _Owner:
    """The module run that the cache belongs to."""

    sender = _NODE
    place = _PLACE
    place_text = _PLACE.text(_NODE)

    def __init__(self, input_mailboxes: Sequence[str]) -> None:
        self.input_mailboxes = input_mailboxes


class _View:
    """The state that the module reads, its steps and its messages: nobody else changes any of them."""

    keys_revision = 1
    prefix = ""
    borders: Sequence[str] = ()

    def __init__(self, texts: dict[str, str], task: Task) -> None:
        self.texts = texts
        #: Keys that have an end -> seconds from the commit to it.
        self.expiring: dict[str, float] = {}
        self.results: dict[str, str] = {}
        self.answers: dict[str, str] = {}
        self.remembered_steps: dict[str, str] = {}
        #: Signals whose timeout is over.
        self.overdue: frozenset[str] = frozenset()
        #: (name, text of the result) of steps that were called.
        self.called: list[tuple[str, str]] = []
        #: Messages that have left.
        self.sent: list[Message] = []
        self.claims = Claims()
        self.revision = 1
        self._fields: dict[str, str] = {}
        self._task = task
        self._stored: dict[str, list[str]] = {}
        self.mailboxes = Mailboxes(self._stored)

    def put(self, mailbox: str, values: Sequence[Any]) -> None:
        texts = (value_text(f"message to {mailbox}", value) for value in values)
        self._stored[mailbox] = [
            message_text(f"{mailbox}:{number}", "", text) for number, text in enumerate(texts)
        ]

    def commit(
        self,
        writes: Mapping[str, str | None],
        ttls: Mapping[str, float | None],
        sent: Sequence[Message],
        taken: Sequence[tuple[str, str]],
    ) -> None:
        self.expiring = self.ttls_after(writes, ttls)
        for key, text in writes.items():
            if text is None:
                self.texts.pop(key, None)
            else:
                self.texts[key] = text
        self.sent += sent
        for mailbox, text in taken:
            self._stored[mailbox].remove(text)

    def ttls_after(
        self, writes: Mapping[str, str | None], ttls: Mapping[str, float | None]
    ) -> dict[str, float]:
        """What `expiring` is when these are committed."""
        found = dict(self.expiring)
        for key, text in writes.items():
            if text is None or key not in ttls:
                found.pop(key, None)
            elif (ttl := ttls[key]) is not None:
                found[key] = ttl
        return found

    # State

    def text(self, key: str) -> str | None:
        return self.texts.get(key)

    def key_revision(self, key: str) -> int:
        return 1

    def keys(self) -> Collection[str]:
        return self.texts.keys()

    def node_text(self, name: str) -> str | None:
        return self.results.get(name)

    def node_revision(self, name: str) -> int:
        return 1

    def is_map(self, name: str) -> bool:
        return False

    def has_records(self, name: str) -> bool:
        return isinstance(self._listed(name), list)

    def has_map_results(self, name: str) -> bool:
        return self.has_records(name)

    async def map_pages(self, name: str) -> AsyncIterator[list[tuple[ItemNumber, str]]]:
        yield [(index, encode(value, name)) for index, value in enumerate_items(self._listed(name))]

    def _listed(self, name: str) -> Any:
        return decode(self.results[name], name) if name in self.results else None

    def task(self) -> Task:
        return self._task.model_copy(deep=True)

    async def set_now(self, key: str, text: str, ttl: float | None, asker: object) -> None:
        self.commit({key: text}, {} if ttl is None else {key: ttl}, (), ())

    # Steps and signals

    async def remembered(self, place: Place, field: str) -> str | None:
        kind, rest = field.split(":", 1)
        name = rest.split(":", 3)[-1] if kind == "step" else rest.split(":", 1)[-1]
        if kind == "timeout":
            return "true" if name in self.overdue else None
        given = self.answers if kind == "signal" else self.remembered_steps
        return self._fields.get(field, given.get(name))

    def fields(self, place: Place) -> Collection[str]:
        return ()

    async def remember(self, place: Place, field: str, text: str) -> str:
        self.called.append((field.split(":", 4)[-1], text))
        return self._fields.setdefault(field, text)

    async def call(self, owner: object, function: Callable[..., Any], *args: Any) -> Any:
        result = function(*args)
        return await result if inspect.isawaitable(result) else result

    # Messages

    async def send_now(self, messages: Sequence[Message], owner: object) -> None:
        self.sent += messages

    async def wait_for_message(
        self, mailboxes: Sequence[str], timeout: float | None, owner: object
    ) -> tuple[str, str] | None:
        if timeout is None:
            names = " or ".join(map(repr, mailboxes))
            raise WaitsInVain(
                f"the module waits for a message in {names}, which nobody sends; give module_cache(messages=...)"
            )
        return None
