"""What is known of each type that is stored: under which name, how it is written, how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: The key of an object that says of which type it is.
TAG = "$type"


@dataclass(frozen=True, slots=True)
class StoredType:
    """A class under its name. `write` makes tagged JSON data; `read` takes the fields, or the single value."""

    name: str
    cls: type
    write: Callable[[Any, int], Any]
    read: Callable[[Any], Any]
    is_single_value: bool


#: Built-in and registered types by the name in stored text.
by_name: dict[str, StoredType] = {}

#: How values of exactly this class are written.
writers: dict[type, Callable[[Any, int], Any]] = {}
