"""How is a Lua file called? By its hash, and with its text where the server does not know it (yet, or any more).

A script that begins with `-- include NAME.lua` has that file put in front. Each script's head says what it takes and
returns; its refusals that mean the same everywhere become errors here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from graphflow.errors import CorruptState, StoreError

if TYPE_CHECKING:
    import redis
    import redis.asyncio

Argument = str | int
_INCLUDE = "-- include "


@dataclass(frozen=True, slots=True)
class Script:
    """A script, to be run by a client that decodes replies to str."""

    name: str
    text: str
    sha: str

    async def run(
        self, client: redis.asyncio.Redis, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> list[Any]:
        """The script's reply, its first element a word. CorruptState if a key is of another type."""
        execute = cast("Callable[..., Awaitable[list[Any]]]", client.execute_command)
        try:
            reply = await execute("EVALSHA", self.sha, len(keys), *keys, *arguments)
        except Exception as error:
            if not _is_unknown_script(error):
                raise
            reply = await execute("EVAL", self.text, len(keys), *keys, *arguments)
        return self._checked(reply)

    def run_sync(self, client: redis.Redis, keys: Sequence[str], arguments: Sequence[Argument]) -> list[Any]:
        """The same for a thread."""
        execute = cast("Callable[..., list[Any]]", client.execute_command)
        try:
            reply = execute("EVALSHA", self.sha, len(keys), *keys, *arguments)
        except Exception as error:
            if not _is_unknown_script(error):
                raise
            reply = execute("EVAL", self.text, len(keys), *keys, *arguments)
        return self._checked(reply)

    def _checked(self, answer: list[Any]) -> list[Any]:
        if answer[0] == "wrong":
            _, key, wanted, found = answer
            raise CorruptState(key, f"it is of type {found}, not {wanted}")
        if answer[0] == "malformed":
            raise StoreError(
                f"{self.name}.lua got a malformed write at argument {answer[1]}; nothing was stored"
            )
        return answer


@cache
def script(name: str) -> Script:
    """The script of `lua/NAME.lua`."""
    text = _text_of(f"{name}.lua")
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _text_of(file_name: str) -> str:
    text = files("graphflow.store").joinpath("lua", file_name).read_text(encoding="utf-8")
    if not text.startswith(_INCLUDE):
        return text
    first, _, rest = text.partition("\n")
    return _text_of(first.removeprefix(_INCLUDE)) + rest


def _is_unknown_script(error: Exception) -> bool:
    # redis-py is imported only where a connection is made: by now it is.
    from redis.exceptions import NoScriptError

    return isinstance(error, NoScriptError)
