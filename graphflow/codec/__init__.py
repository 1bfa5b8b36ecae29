"""How does a value become the text that Redis holds, and how does it come back?

As JSON, plus types that were registered by name. What JSON has is stored as it is; everything else is an object with
the key `$type`, readable with redis-cli:

    {"$type":"Report","title":"Tides","pages":[1,2]}             a model or dataclass, its fields inline
    {"$type":"datetime","value":"2026-11-20T08:30:00+00:00"}     a scalar, a collection or an Enum member
    {"$type":"dict","value":{"$type":"mine"}}                    a user's own dict that has the key $type

What a value has besides is under further keys that begin with `$`, where it has it (`built_in.py`, `instances.py`). A value
comes back equal and of the same type, or is refused when it is written (`refusals.py`). A tag is looked up among the
registered names and never imported, so stored text cannot choose code to run.

Dicts keep their order, sets are sorted by the text of their members. How numbers are written is up to a library; who asks
whether two values are the same asks `canonical.py`.
"""

from __future__ import annotations

from graphflow.codec.built_in import is_built_in
from graphflow.codec.reading import decode, decode_all, decode_plain, fields_of, rebuilt, stored_data
from graphflow.codec.refusals import refusal_of_type
from graphflow.codec.registered import register_type
from graphflow.codec.table import TAG, registered_type
from graphflow.codec.writing import MAX_DEPTH, MAX_INT_DIGITS, encode, is_plain

__all__ = [
    "MAX_DEPTH",
    "MAX_INT_DIGITS",
    "TAG",
    "decode",
    "decode_all",
    "decode_plain",
    "encode",
    "fields_of",
    "is_built_in",
    "is_plain",
    "rebuilt",
    "refusal_of_type",
    "register_type",
    "registered_type",
    "stored_data",
]
