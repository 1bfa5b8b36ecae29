"""Writes in the form in which `create.lua` and `commit.lua` take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from graphflow.store.scripts import Argument

#: Arguments of one write; the scripts refuse more.
MAX_ARGUMENTS = 1_000


class WriteList:
    """Writes as scripts take them: command, number of the key, number of arguments, arguments.

    `keys` come first, in the places where the script knows them.
    """

    __slots__ = ("_numbers", "arguments", "keys")

    def __init__(self, *keys: str) -> None:
        self.keys = list(keys)
        self.arguments: list[Argument] = []
        self._numbers = {key: number for number, key in enumerate(keys, 1)}

    def put(self, command: str, key: str, arguments: Sequence[Argument] = ()) -> None:
        self.arguments += (command, self._number(key), len(arguments), *arguments)

    def put_pair(self, command: str, source: str, target: str) -> None:
        """COPY or RENAME."""
        self.put(command, source, [self._number(target)])

    def _number(self, key: str) -> int:
        number = self._numbers.get(key)
        if number is None:
            self.keys.append(key)
            number = self._numbers[key] = len(self.keys)
        return number

    def put_all(self, command: str, key: str, arguments: Sequence[Argument]) -> None:
        """Any number of fields, or of fields with their values, as writes of the allowed size."""
        if 0 < len(arguments) <= MAX_ARGUMENTS:
            self.put(command, key, arguments)
            return
        for start in range(0, len(arguments), MAX_ARGUMENTS):
            self.put(command, key, arguments[start : start + MAX_ARGUMENTS])

    def set_fields(self, key: str, changes: Mapping[str, str | None]) -> None:
        """HSET what has a text, HDEL what is None."""
        if None not in changes.values():
            self.put_all("HSET", key, [*chain.from_iterable(changes.items())])  # type: ignore[list-item]
            return
        texts = {name: text for name, text in changes.items() if text is not None}
        self.put_all("HSET", key, [*chain.from_iterable(texts.items())])
        self.put_all("HDEL", key, [name for name, text in changes.items() if text is None])
