"""Which store an agent keeps its runs in. The state itself belongs to a run: modules get it as a transaction."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from graphflow.bounds import checked_choice
from graphflow.errors import OutsideRun
from graphflow.settings import OnRisk, load_settings

if TYPE_CHECKING:
    from graphflow.server.address import Address
    from graphflow.server.embedded import EmbeddedServer
    from graphflow.store.redis_store import RedisStore


class RedisCache:
    """A store by its URL: `redis://`, `rediss://`, `unix://`, `valkey://`, `embedded://` or `memory://`.

    Without a URL: GRAPHFLOW_REDIS_URL; else the embedded server of a `.graphflow/` in the working folder; else a Redis
    that answers on localhost:6379; else a new embedded server in the working folder. Nothing is connected before the
    first run. `prefix` begins every key; it defaults to GRAPHFLOW_PREFIX, else `gf`. `on_risk` says what becomes of a
    server whose settings do not keep runs safe (see `graphflow doctor`): "warn" in the log, "refuse" with UnsafeStore, or
    "ignore".
    """

    def __init__(
        self, url: str | None = None, *, prefix: str | None = None, on_risk: OnRisk = "warn"
    ) -> None:
        self._on_risk: OnRisk = checked_choice("on_risk", on_risk, get_args(OnRisk))
        self._settings = load_settings(redis_url=url, prefix=prefix)
        self._address: Address | None = None
        self._server: EmbeddedServer | None = None

    def __repr__(self) -> str:
        if self._address is not None:
            return f"RedisCache({self._address.masked!r})"
        if self._settings.redis_url is None:
            return "RedisCache('default')"
        from graphflow.server.address import masked_url

        return f"RedisCache({masked_url(self._settings.redis_url)!r})"

    @property
    def address(self) -> Address:
        """Where the store is; looked for once."""
        if self._address is None:
            from graphflow.server.address import find_address

            self._address = find_address(self._settings.redis_url, os.environ)
        return self._address

    @property
    def prefix(self) -> str:
        """What every key begins with, without the colon after it."""
        return self._settings.prefix

    def at(self, url: str, *, prefix: str | None = None) -> RedisCache:
        """The same settings for the store of another URL."""
        return RedisCache(url, prefix=prefix or self.prefix, on_risk=self._on_risk)

    def store(self) -> RedisStore:
        """A store at this address, not yet open; one for each event loop.

        An embedded server stays up between runs for as long as this cache is there, or the process.
        """
        from graphflow.store.redis_store import RedisStore

        return RedisStore(
            self.address, prefix=self._settings.prefix, on_risk=self._on_risk, server=self._embedded_server()
        )

    def _embedded_server(self) -> EmbeddedServer | None:
        if self._server is None and self.address.kind == "embedded" and self.address.path is not None:
            from graphflow.server.embedded import EmbeddedServer

            self._server = EmbeddedServer(self.address.path)
            weakref.finalize(self, self._server.stop).atexit = False
        return self._server

    def __getattr__(self, name: str) -> Any:
        if name not in _STATE_OPERATIONS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def refuse(*args: object, **kwargs: object) -> NoReturn:
            raise OutsideRun(name)

        return refuse


_STATE_OPERATIONS = frozenset(
    (
        "get",
        "set",
        "delete",
        "exists",
        "keys",
        "get_all",
        "clear",
        "append",
        "increment",
        "update",
        "peek",
        "claim",
        "results",
        "step",
        "publish_to_mailbox",
        "get_message",
        "wait_for_signal",
        "with_prefix",
        "with_suffix",
    )
)
