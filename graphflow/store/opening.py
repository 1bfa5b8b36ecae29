"""How does somebody who has no agent come by a store: a command, a dashboard? From a URL, or from where there is one."""

from __future__ import annotations

import os

from graphflow.server.address import Address, find_address
from graphflow.server.embedded_folder import holds_store
from graphflow.settings import load_settings
from graphflow.store.redis_store import RedisStore


def address_of(url: str | None) -> Address:
    """Where the store is: at the URL, else where the environment or the working folder says. InvalidAddress."""
    return find_address(url, os.environ)


def is_there(address: Address) -> bool:
    """Whether there can be runs: a look does not make an embedded store where none is. EmbeddedServerError."""
    return address.kind != "embedded" or address.path is None or holds_store(address.path)


def store_at(address: Address, prefix: str | None = None) -> RedisStore:
    """The store, to be opened with `async with`; `prefix` is that of its keys, by default the setting."""
    return RedisStore(address, prefix=prefix or load_settings().prefix)
