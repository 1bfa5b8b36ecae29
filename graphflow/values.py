"""A value as it is stored: its text within the limit, the size of that, and what kind of value it is, for people."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from pydantic_core import from_json

from graphflow.codec import decode, encode
from graphflow.codec.canonical import digest_of_data
from graphflow.errors import ValueTooLarge
from graphflow.settings import MAX_VALUE_BYTES

_TEXTS_FORM = "1:"


def value_text(key: str, value: Any) -> str:
    """A value as it is stored, within the size limit. UnstorableValue, ValueTooLarge."""
    text = encode(value, key)
    # A character takes four bytes at most: short texts need not be measured.
    if len(text) > MAX_VALUE_BYTES // 4 and (size := size_of(text)) > MAX_VALUE_BYTES:
        raise ValueTooLarge(key, type(value).__name__, size, MAX_VALUE_BYTES)
    return text


def value_digest(text: str) -> str:
    """Of a stored text: that of its value, with the form that it is of (see `codec/canonical.py`)."""
    return digest_of_data(from_json(text))


def texts_digest(texts: Sequence[str]) -> str:
    """Of stored texts in their order, with the form that it is of: `1:` and 16 hex digits of the texts, a line each.

    Not of their values, which would cost more than the texts themselves. All that the library which writes them has ever
    changed is the sign of large exponents: 1e16, 1e+16.
    """
    return _TEXTS_FORM + sha256("\n".join(texts).replace("e+", "e").encode()).hexdigest()[:16]


def size_of(text: str) -> int:
    """Bytes of a text as it is stored."""
    return len(text) if text.isascii() else len(text.encode())


def described(text: str) -> str:
    """What kind of value a text holds, for messages."""
    value = decode(text)
    if value is None:
        return "null"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
