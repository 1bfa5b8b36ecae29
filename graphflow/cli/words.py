"""How is text that others wrote shown on a terminal? As text: nothing of it moves a cursor, and all of it can be printed."""

from __future__ import annotations

#: Characters of a foreign text that a message quotes.
QUOTED_CHARACTERS = 200


def printable(text: str) -> str:
    """The text with what a terminal would carry out, and what UTF-8 has not, as escapes; lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else _escape(each) for each in text)


def escaped(text: str) -> str:
    """The text in quotes on one line, cut off if it is long."""
    return repr(text if len(text) <= QUOTED_CHARACTERS else f"{text[: QUOTED_CHARACTERS - 1]}…")


def _escape(character: str) -> str:
    return repr(character)[1:-1]
