"""The server behind `memory://`: fakeredis, for tests. One of each name in this process, shared by its clients."""

from __future__ import annotations

import copy
from typing import Any

from graphflow.errors import MissingExtra

_servers: dict[str, Any] = {}


def memory_server(name: str) -> Any:
    """The server of this name; clients of several event loops and threads may share it. MissingExtra."""
    try:
        import fakeredis
    except ImportError as exc:
        raise MissingExtra("memory://", "dev") from exc
    if not _servers:
        _copy_by_value()
    return _servers.setdefault(name, fakeredis.FakeServer())


def _copy_by_value() -> None:
    """As of 2.40, COPY in fakeredis leaves both keys with one value, so that a change of one is seen in the other."""
    from fakeredis.commands_mixins.generic_mixin import GenericCommandsMixin

    shared = GenericCommandsMixin.copy

    def copy_value(self: Any, key: Any, newkey: Any, *args: bytes) -> int:
        answer: int = shared(self, key, newkey, *args)
        if answer:
            newkey.value = copy.deepcopy(key.value)
        return answer

    copy_value.__name__ = shared.__name__
    GenericCommandsMixin.copy = copy_value  # type: ignore[method-assign]
