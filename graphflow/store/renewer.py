"""Who keeps leases alive? A thread, on a connection of its own, so that a blocked event loop does not lose its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphflow.failpoints import failpoint
from graphflow.server.address import Address
from graphflow.server.connection import open_sync_client, translate_errors
from graphflow.store.contract import Lease
from graphflow.store.keys import StoreKeys
from graphflow.store.scripts import script

if TYPE_CHECKING:
    import redis


class RedisRenewer:
    """Renews leases from one thread; connects with the first renewal."""

    def __init__(self, address: Address, keys: StoreKeys) -> None:
        self._address = address
        self._keys = keys
        self._client: redis.Redis | None = None

    def renew(self, lease: Lease) -> int | None:
        failpoint("lease.renew")
        keys = self._keys.run(lease.run_id)
        with translate_errors(self._address):
            if self._client is None:
                self._client = open_sync_client(self._address, role="lease")
            length = max(1, round(lease.seconds * 1000))
            answer = script("renew").run_sync(self._client, [keys.lease, keys.inbox], [lease.token, length])
        return answer[1] if answer[0] == "ok" else None

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
