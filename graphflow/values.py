"""A value as it is stored: its text within the limit, the size of that, and what kind of value it is, for people."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from graphflow.codec import decode, encode
from graphflow.errors import ValueTooLarge
from graphflow.settings import MAX_VALUE_BYTES


def value_text(key: str, value: Any) -> str:
    """A value as it is stored, within the size limit. UnstorableValue, ValueTooLarge."""
    text = encode(value, key)
    # A character takes four bytes at most: short texts need not be measured.
    if len(text) > MAX_VALUE_BYTES // 4 and (size := size_of(text)) > MAX_VALUE_BYTES:
        raise ValueTooLarge(key, type(value).__name__, size, MAX_VALUE_BYTES)
    return text


def value_digest(text: str) -> str:
    """Of a stored text: two are equal if the texts are the same value. 16 hex digits."""
    # What writes the texts has changed its mind about the sign of large exponents: 1e16, 1e+16.
    return sha256(text.replace("e+", "e").encode()).hexdigest()[:16]


def texts_digest(texts: Sequence[str]) -> str:
    """Of stored texts in their order, which are one line each."""
    return value_digest("\n".join(texts))


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
