"""What do `append`, `increment` and `update` make of a stored text?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphflow.codec import decode, encode
from graphflow.errors import WrongType
from graphflow.values import described


def appended(key: str, text: str | None, members: Sequence[str]) -> str:
    """The text of a list with texts of members added; the list is not decoded."""
    if text is None or text == "[]":
        return f"[{','.join(members)}]"
    if not text.startswith("["):
        raise WrongType(key, "append", described(text), "a list")
    return f"{text[:-1]},{','.join(members)}]" if members else text


def incremented(key: str, text: str | None, by: float) -> str:
    """The text of a number increased; integers stay integers."""
    if text is None:
        return encode(by, key)
    if text[0] not in "-0123456789":
        raise WrongType(key, "increment", described(text), "a number")
    return encode(decode(text, key) + by, key)


def updated(key: str, text: str | None, values: dict[str, Any]) -> str:
    """The text of a dict with `values` merged in."""
    current = {} if text is None else decode(text, key)
    if type(current) is not dict:
        raise WrongType(key, "update", described(text or ""), "a dict")
    return encode({**current, **values}, key)


#: Operation -> function of the key, its stored text and the argument.
OPERATIONS: dict[str, Callable[[str, str | None, Any], str]] = {
    "append": appended,
    "increment": incremented,
    "update": updated,
}
