"""What do finished items leave behind in Redis: bytes of memory, bytes of the append-only file, keys?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.server import ServerAddress


@dataclass(frozen=True, slots=True)
class Look:
    memory_bytes: int
    log_bytes: int
    keys: int


class Footprint:
    """The difference between a look before and one after; memory is the sum of what `MEMORY USAGE` says of each key."""

    def __init__(self, server: ServerAddress) -> None:
        self._server = server
        self._before = Look(0, 0, 0)

    def look(self) -> None:
        self._before = self._look()

    def left_by(self, count: int) -> dict[str, object]:
        after = self._look()
        return {
            "redis_bytes_each": round((after.memory_bytes - self._before.memory_bytes) / count, 1),
            "log_bytes_each": round((after.log_bytes - self._before.log_bytes) / count, 1),
            "keys": after.keys - self._before.keys,
        }

    def _look(self) -> Look:
        import redis

        with redis.Redis.from_url(self._server.unix_url) as client:
            keys: list[Any] = list(client.scan_iter(count=1_000))
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.memory_usage(key, samples=0)
            log_bytes = client.info("persistence")["aof_current_size"]
            return Look(sum(filter(None, pipeline.execute())), log_bytes, len(keys))
