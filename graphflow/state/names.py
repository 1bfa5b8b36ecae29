"""What may a state key be called, or a step, a mailbox, a signal? And what does a run begin with under these names?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from graphflow.errors import InvalidName, StateError
from graphflow.values import value_text

#: Characters of a name.
MAX_LENGTH = 200
#: The key under which modules read the run's task.
TASK_KEY: Final = "task"

_NAME = re.compile(rf"[^\x00-\x1f\x7f-\x9f{{}}\ud800-\udfff]{{1,{MAX_LENGTH}}}")
_RULE = f"use 1 to {MAX_LENGTH} characters, without control characters and braces"


def checked_name(what: str, name: str) -> str:
    """The name, if a `what` can be called so. InvalidName."""
    if not isinstance(name, str):
        raise InvalidName(what, repr(name), f"a {what} is text, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise InvalidName(what, name, _RULE)
    return name


def initial_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """A run's initial state as texts. InvalidName, StateError, UnstorableValue or ValueTooLarge for what cannot be."""
    if not isinstance(values, Mapping):
        raise StateError(f"state= is a dict of values by key, not {type(values).__name__}")
    texts = {}
    for key, value in values.items():
        if checked_name("state key", key) == TASK_KEY:
            raise StateError(
                "the key 'task' is the run's task and cannot be set; choose another key in state="
            )
        texts[key] = value_text(key, value)
    return texts
