"""Which parts of a run's state a module run touches, in the words that tickets use.

State keys stand for themselves. What is no key has a name with braces, which a state key cannot have: the set of keys,
the whole state, the result of a node.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The set of keys: read by `keys()` and `clear()`, changed by whatever adds or removes a key.
KEY_SET = "{keys}"

#: All of the state: read by `get_all()`, changed by any write.
WHOLE_STATE = "{state}"


def node_key(name: str) -> str:
    """The result of the node `name`, in a footprint or a change."""
    return f"{{nodes}}.{name}"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one module run read and wrote. A claimed list is in neither: claimers do not stand in each other's way."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    #: Those of `reads` that have changed since they were read.
    lost: frozenset[str] = frozenset()
