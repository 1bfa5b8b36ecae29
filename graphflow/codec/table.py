"""What is known of each type that is stored: under which name, how it is written, how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: The key of an object that says of which type it is. What else an object has beside its value or its fields is under
#: keys that begin with `$` as well.
TAG = "$type"

#: Fields of a model that nobody has set: a list of names, left out if all are set.
UNSET = "$unset"
#: Fields that an instance does not have: a list of names, left out if it has all.
MISSING = "$missing"
#: What an instance has beside its fields, such as private attributes: an object.
ATTRIBUTES = "$attributes"
#: Extra fields of a model, if one of them has the name of a field or begins with `$`; otherwise they are inline.
EXTRA = "$extra"
INSTANCE_MARKS = frozenset({UNSET, MISSING, ATTRIBUTES, EXTRA})


@dataclass(frozen=True, slots=True)
class StoredType:
    """A class under its name. `write` makes a tagged object of a value, `read` a value of the members of such an
    object, which are rebuilt already; the object is one `value`, or the fields of an instance."""

    name: str
    cls: type
    write: Callable[[Any, int], Any]
    read: Callable[[dict[str, Any]], Any]
    is_single_value: bool


class Unfitting(Exception):
    """What is stored was right once, and no longer fits the class, or this machine. Its text says why, and what to do."""


#: What the names of graphflow's own types begin with, and those of its modules.
OWN_PREFIX = "graphflow."

#: Built-in and registered types by the name in stored text.
by_name: dict[str, StoredType] = {}

#: How values of exactly this class are written.
writers: dict[type, Callable[[Any, int], Any]] = {}


def registered_type(name: str) -> type | None:
    """The class that values with this tag have; None if there is none."""
    stored = by_name.get(name)
    return None if stored is None else stored.cls
