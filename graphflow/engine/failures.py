"""How is an exception kept? As plain data: what it says, where it was raised, and the exceptions behind it.

Behind an exception are what it was raised from, what was being handled when it was raised, and the members of a group.
All of it is bounded: a failure of each of a million items is kept.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from graphflow import errors
from graphflow.engine.interrupts import is_of_signal
from graphflow.errors import (
    AnswerRefused,
    InvalidName,
    InvalidSetting,
    MissingKey,
    NonRetryableException,
    StateError,
)
from graphflow.run import Cause, Failure

#: Characters of a traceback and of a message that are kept.
TRACEBACK_CHARACTERS = 4_000
MESSAGE_CHARACTERS = 1_000
#: Notes of an exception, and characters of each.
NOTES = 5
NOTE_CHARACTERS = 200
#: Exceptions behind a failure, members of one group among them, and characters of the traceback of each.
CAUSES = 16
MEMBERS = 8
CAUSE_TRACEBACK_CHARACTERS = 1_000

#: What another attempt cannot help: the module asked for that, or used its cache in a way that cannot be.
_FINAL = (NonRetryableException, StateError, InvalidName, InvalidSetting)

#: What is said besides of an AnswerRefused that is a failure.
_NOTHING_TO_REFUSE = "it refused no answer: raise it in the module run that wait_for_signal has given one"

_PACKAGE = f"{Path(errors.__file__).parent}{os.sep}"


def failure_from(error: BaseException) -> Failure:
    """An exception as plain data; one whose own text cannot be made is still recorded.

    Raised again if a signal has ended the process by it: then nothing has failed.
    """
    end_with_process(error)
    message = message_of(error)
    if isinstance(error, AnswerRefused):
        message = f"{message} ({_NOTHING_TO_REFUSE})"
    return Failure(
        type(error).__name__,
        message,
        _traceback_text(error, TRACEBACK_CHARACTERS),
        retryable=not _is_final(error),
        causes=tuple(_causes(error)),
    )


def overdue(message: str, error: BaseException | None = None) -> Failure:
    """The failure of what was cancelled because its time was up. `error` is what it ended with."""
    failure = Failure("ModuleTimeout", message)
    if error is None or isinstance(error, asyncio.CancelledError):
        return failure
    end_with_process(error)
    causes = [_cause("ending", error, 1), *_causes(error, depth=2)]
    return replace(failure, retryable=not _is_final(error), causes=tuple(causes[:CAUSES]))


def end_with_process(error: BaseException) -> None:
    """Raise it if it is a signal's, which ends the process."""
    if is_of_signal(error):
        raise error


def shortened(text: str, characters: int = MESSAGE_CHARACTERS) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _is_final(error: BaseException) -> bool:
    """Whether another attempt cannot help: it says so, or a member of it does, or what it was raised from asked for that.

    What was merely being handled does not count: the module had taken that in hand. Nor does another error of the cache
    that it was raised from, as there being no message: it has become something else.
    """
    waiting: list[tuple[BaseException, tuple[type[BaseException], ...]]] = [(error, _FINAL)]
    seen = {id(error)}
    while waiting:
        each, final = waiting.pop()
        # A refusal beside another failure is made again, by the next attempt with the same answer.
        harmless = MissingKey if each is error else (MissingKey, AnswerRefused)
        if isinstance(each, final) and not isinstance(each, harmless):
            return True
        behind = [(member, final) for member in members_of(each)]
        if (cause := _own(each, "__cause__")) is not None:
            behind.append((cause, (NonRetryableException,)))
        waiting += [other for other in behind if id(other[0]) not in seen]
        seen.update(id(other) for other, _ in behind)
    return False


def _causes(error: BaseException, depth: int = 1) -> list[Cause]:
    found: list[Cause] = []
    _gather(error, depth, {id(error)}, found)
    return found


def _gather(error: BaseException, depth: int, seen: set[int], found: list[Cause]) -> None:
    for relation, other in _behind(error):
        # A chain can lead back to itself.
        if len(found) < CAUSES and id(other) not in seen:
            seen.add(id(other))
            found.append(_cause(relation, other, depth))
            _gather(other, depth + 1, seen, found)


def _behind(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    if type(error).__module__ == errors.__name__ and type(error) is not NonRetryableException:
        # What is said in its message was chosen to be said; what it was raised from may hold a password.
        return
    for member in islice(members_of(error), MEMBERS):
        yield "member", member
    if (cause := _own(error, "__cause__")) is not None:
        yield "cause", cause
    elif (context := _own(error, "__context__")) is not None and not _own(error, "__suppress_context__"):
        yield "context", context


def members_of(error: BaseException) -> tuple[BaseException, ...]:
    """Those of a group, whatever its class makes of its attributes; none of any other exception."""
    if not isinstance(error, BaseExceptionGroup):
        return ()
    members: tuple[BaseException, ...] = vars(BaseExceptionGroup)["exceptions"].__get__(error)
    return members


def _own(error: BaseException, name: str) -> Any:
    """What every exception has under this name, also where its class has put something else there."""
    return vars(BaseException)[name].__get__(error)


def _cause(relation: str, error: BaseException, depth: int) -> Cause:
    text = _traceback_text(error, CAUSE_TRACEBACK_CHARACTERS)
    return Cause(relation, type(error).__name__, message_of(error), depth, text)


def message_of(error: BaseException) -> str:
    """What it says, and its notes, each on lines of its own."""
    return "\n".join(filter(None, [shortened(_text(error)), *_notes(error)]))


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, list | tuple):
        return []
    return [shortened(_text(note), NOTE_CHARACTERS) for note in notes[:NOTES]]


def _text(value: object) -> str:
    try:
        return str(value)
    except BaseException as broken:
        return f"(its message cannot be shown: {type(broken).__name__})"


def _traceback_text(error: BaseException, characters: int) -> str:
    """The frames below the engine's own, the last ones if there are too many."""
    frames = [
        frame
        for frame in traceback.extract_tb(_own(error, "__traceback__"))
        if not frame.filename.startswith(_PACKAGE)
    ]
    return "".join(traceback.format_list(frames))[-characters:]
