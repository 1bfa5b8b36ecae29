"""What a module run does besides reading and writing state: steps, messages, signals.

What it did is found again when the module run is repeated or resumed: under its place, the name, what the call depends
on, and how many equal calls came before it in this module run. What a call depends on is a digest, which says its form; what
was remembered under one of an earlier form is found, too, so that nothing is paid twice for an upgrade.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from graphflow.codec import decode
from graphflow.codec.canonical import EXPONENTS, digest_of_data, earlier_digest, earlier_text, is_earlier
from graphflow.codec.writing import json_data
from graphflow.errors import CorruptState, NoMessage, NoSignal, StateError, UnknownType, UnstorableValue
from graphflow.failpoints import failpoint
from graphflow.run import Message, message_text, overdue_field
from graphflow.state.calls import Calls
from graphflow.state.schemas import Unfit, fitting, schema_text
from graphflow.state.view import Messages, Owner, Steps

if TYPE_CHECKING:
    from pydantic import BaseModel


class Suspended(BaseException):
    """The module run waits for a signal: it ends here, and starts again when the signal is there.

    No failure, so no `except Exception` sees it. Whatever becomes of it on its way out, `Effects.awaits` tells.
    """


@dataclass(frozen=True, slots=True)
class Awaited:
    """The signal that a module run has ended for, and the field under which it will look for the answer."""

    signal: str
    field: str
    question: str = ""
    #: JSON Schema, as text.
    schema: str = ""
    timeout: float | None = None
    #: Why the answer that was there is dropped; None if none was.
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of `wait_for_signal`."""

    signal: str
    model: type[BaseModel] | None
    timeout: float | None
    question: str

    @property
    def schema(self) -> str:
        return "" if self.model is None else schema_text(self.model)


class Effects:
    """Those of one module run."""

    __slots__ = (
        "_answered",
        "_counts",
        "_has_earlier",
        "_messages",
        "_owner",
        "_published",
        "_steps",
        "awaits",
        "calls",
        "outgoing",
        "taken",
    )

    def __init__(self, owner: Owner, steps: Steps, messages: Messages) -> None:
        self._owner = owner
        self._steps = steps
        self._messages = messages
        self._counts: dict[str, int] = {}
        self._published = 0
        #: Whether something is remembered under a digest of an earlier form; None if nobody has looked yet.
        self._has_earlier: bool | None = None
        #: Messages that leave with the commit.
        self.outgoing: list[Message] = []
        #: (mailbox, text) of messages that are reserved for this module run.
        self.taken: list[tuple[str, str]] = []
        self.awaits: Awaited | None = None
        #: The answer that was given last.
        self._answered: Awaited | None = None
        #: Steps under way.
        self.calls = Calls()

    @property
    def is_empty(self) -> bool:
        """True if nothing depends on the commit."""
        return not self.outgoing and not self.taken and self.awaits is None

    # Steps

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        key: Any,
        encoded: Callable[[Any], str],
    ) -> Any:
        """The function's result, remembered or new. `encoded` makes the text of a value and may refuse it."""
        data = _dependence(name, function, args, key)
        field = self._numbered(f"step:{digest_of_data(data)}", name)
        text = await self._steps.remembered(self._owner.place, field)
        if text is None and self._remembers_earlier():
            text = await self._remembered_earlier(data, name)
        if text is None:
            with self.calls.one():
                result = await self._steps.call(self._owner, function, *args)
                text = await self._steps.remember(self._owner.place, field, encoded(result))
                failpoint("step.after_store")
        return decode(text, name)

    async def _remembered_earlier(self, data: Any, name: str) -> str | None:
        """What the call came to under a digest of the form before. How many calls came before it is counted there, too:
        they are those that were not found under one of today's form."""
        found = None
        for digest in _earlier_dependences(data):
            text = await self._steps.remembered(self._owner.place, self._numbered(f"step:{digest}", name))
            found = text if found is None else found
        return found

    def _remembers_earlier(self) -> bool:
        if self._has_earlier is None:
            fields = self._steps.fields(self._owner.place)
            self._has_earlier = any(is_earlier(_digest_in(field)) for field in fields)
        return self._has_earlier

    def _numbered(self, kind: str, name: str) -> str:
        """The field of this call: how many equal ones came before it is part of it."""
        call = f"{kind}:{name}"
        count = self._counts[call] = self._counts.get(call, -1) + 1
        return f"{kind}:{count}:{name}"

    # Messages

    def publish(self, mailbox: str, text: str) -> None:
        """Buffer a message with the value `text`."""
        number, self._published = self._published, self._published + 1
        data = {"mailbox": mailbox, "value": from_json(text)}
        digest = digest_of_data(data)
        place = self._owner.place
        field = f"sent:{number}:{digest}"
        if self._remembers_earlier():
            field = self._sent_earlier(number, data) or field
        message_id = f"{self._owner.place_text}:{number}:{digest.rpartition(':')[2][:8]}"
        message = message_text(message_id, self._owner.sender, text)
        self.outgoing.append(Message(mailbox, message, place, field))

    def _sent_earlier(self, number: int, data: Any) -> str | None:
        """The field under which it is remembered, by a digest of the form before, that this message has left."""
        known = self._steps.fields(self._owner.place)
        for exponent in EXPONENTS:
            text = earlier_text(data["value"], exponent)
            field = f"sent:{number}:{earlier_digest(data['mailbox'] + chr(10) + text)}"
            if field in known:
                return field
        return None

    async def next_message(self, mailboxes: Sequence[str], timeout: float | None) -> Any:
        """The value of the oldest free message of the first of these mailboxes that has one. NoMessage."""
        found = self._messages.mailboxes.reserve(mailboxes)
        if found is None:
            outgoing, self.outgoing = self.outgoing, []
            if outgoing:
                await self._messages.send_now(outgoing, self._owner)
            found = await self._messages.wait_for_message(mailboxes, timeout, self._owner)
        if found is None:
            raise NoMessage(mailboxes, timeout or 0)
        self.taken.append(found)
        return decode(found[1], found[0])["value"]

    # Signals

    async def answer(self, asked: Asked) -> Any:
        """The value that was sent for this wait. Suspended if there is none yet, or what came does not fit, when no
        other step is under way; NoSignal."""
        field = self._numbered("signal", asked.signal)
        place = self._owner.place
        text = await self._steps.remembered(place, field)
        if text is None and await self._steps.remembered(place, overdue_field(field)) is not None:
            raise NoSignal(asked.signal, asked.timeout or 0)
        awaited = Awaited(asked.signal, field, asked.question, asked.schema, asked.timeout)
        if text is None:
            await self.calls.over()
            self.awaits = awaited
            raise Suspended
        self._answered = awaited
        try:
            return (
                decode(text, asked.signal)
                if asked.model is None
                else fitting(text, asked.signal, asked.model)
            )
        except (Unfit, UnknownType, CorruptState) as error:
            await self.calls.over()
            self.refuse(str(error))
            raise Suspended from error

    def refuse(self, reason: str) -> bool:
        """Drop the answer that was given last, and wait again; False if none was."""
        if self._answered is not None and self.awaits is None:
            self.awaits = replace(self._answered, refused=reason)
        return self.awaits is not None

    def close(self) -> None:
        """What was reserved is free again, unless it was committed."""
        taken, self.taken = self.taken, []
        for mailbox, text in taken:
            self._messages.mailboxes.release(mailbox, text)


def _digest_in(field: str) -> str:
    """That of a step's field, `step:DIGEST:NUMBER:NAME`, or of a message's, `sent:NUMBER:DIGEST`; it may have a form."""
    kind, _, rest = field.partition(":")
    return rest.partition(":")[0] if kind == "step" else rest.partition(":")[2] if kind == "sent" else ""


def _dependence(name: str, function: Callable[..., Any], args: Sequence[Any], key: Any) -> dict[str, Any]:
    """What the result of a call depends on, as JSON data. StateError if that cannot be told from outside."""
    if key is not None:
        return {"key": json_data(key, f"key of step {name}")}
    try:
        owners, hidden = _hidden_arguments(name, function)
        return {"self": owners, "arguments": hidden + json_data(list(args), f"arguments of step {name}")}
    except UnstorableValue as error:
        raise StateError(
            f"step {name!r}: {error}; or pass key=, a value that stands for everything that the result depends on"
        ) from error


def _earlier_dependences(data: dict[str, Any]) -> Iterator[str]:
    """The digests that the form before may have made of it, each once."""
    seen = set()
    for exponent in EXPONENTS:
        if "key" in data:
            text = f"key {earlier_text(data['key'], exponent)}"
        else:
            owners = [earlier_text(earlier_text(owner, exponent), exponent) for owner in data["self"]]
            arguments = [earlier_text(argument, exponent) for argument in data["arguments"]]
            text = f"arguments [{','.join(owners + arguments)}]"
        if text not in seen:
            seen.add(text)
            yield earlier_digest(text)


def _hidden_arguments(name: str, function: Callable[..., Any]) -> tuple[list[Any], list[Any]]:
    """What a function carries with it besides its arguments, as JSON data: the objects whose method it is, those that can be
    stored, and arguments that are bound to it."""
    what = f"arguments of step {name}"
    if isinstance(function, functools.partial):
        owners, inner = _hidden_arguments(name, function.func)
        return owners, [*inner, *json_data([*function.args, dict(function.keywords)], what)]
    if inspect.ismethod(function):
        owners, inner = _hidden_arguments(name, function.__func__)
        try:
            return [json_data(function.__self__, what), *owners], inner
        except UnstorableValue:
            return owners, inner
    if getattr(function, "__closure__", None):
        raise StateError(
            f"step {name!r}: {getattr(function, '__qualname__', 'the function')} uses variables of the function around "
            "it, which cannot be seen from outside; pass them as arguments, or pass key=, a value that stands for "
            "everything that the result depends on"
        )
    return [], []
