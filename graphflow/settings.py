"""Which store does this process use, and what are the limits unless somebody sets others?

A setting comes from an argument, else from the environment, else from its default here. Limits of an agent, a node or
a module are fields where they belong; this file holds their defaults, with units.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from graphflow.errors import InvalidName

#: Module runs at a time, per run, unless a node asks for more (`Agent.max_concurrent_tasks`).
DEFAULT_MAX_CONCURRENT_TASKS = 100

#: Seconds one attempt of a module may take, waiting for a slot not counted (`ModuleConfig.timeout`).
DEFAULT_TIMEOUT_SECONDS = 600.0

#: Attempts in total, the first one included (`NodeConfig.max_retries`).
DEFAULT_MAX_RETRIES = 3

#: Seconds before the second attempt; full jitter draws between 0 and this.
BACKOFF_BASE_SECONDS = 0.1

#: Each further wait is this many times longer, up to `BACKOFF_MAX_SECONDS`.
BACKOFF_FACTOR = 2.0

#: Seconds that a wait between two attempts never exceeds.
BACKOFF_MAX_SECONDS = 30.0

#: Deaths of the process after which a node or item that was in flight, the last time alone, is failed.
DEFAULT_MAX_CRASHES = 5

#: Starts of a node in one run; 0 is no limit (`NodeConfig.max_visits`).
DEFAULT_MAX_VISITS = 0

#: Seconds for which the right to drive a run holds without renewal (`Agent.lease_seconds`).
DEFAULT_LEASE_SECONDS = 10.0

#: Seconds that module runs under way get to end when the agent is drained.
DEFAULT_DRAIN_SECONDS = 10.0

#: Seconds for which a run may stand still before its driving is broken off, unless its lease is longer
#: (`Agent.stall_seconds`).
DEFAULT_STALL_SECONDS = 30.0

#: Seconds without a tick of the event loop after which the lease is no longer renewed.
DEFAULT_BLOCKED_SECONDS = 300.0

#: Bytes of stored text above which a single value is warned about.
MAX_VALUE_BYTES_WARN = 1024 * 1024

#: Bytes of stored text above which a single value is refused.
MAX_VALUE_BYTES = 8 * 1024 * 1024

#: Bytes that all writes of one module run may take together.
MAX_TRANSACTION_BYTES = 32 * 1024 * 1024

#: Seconds for which the keys of a complete run are kept after its end (7 days).
KEEP_COMPLETE_SECONDS = 7 * 24 * 3600

#: Seconds for which the keys of a run that ended otherwise are kept (30 days).
KEEP_OTHER_SECONDS = 30 * 24 * 3600

#: What becomes of a store whose server breaks the promise (`RedisCache(on_risk=)`).
OnRisk = Literal["warn", "refuse", "ignore"]

_PREFIX_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Process-wide settings."""

    #: Where Redis is (`redis://`, `unix://`, `embedded://`, ...); None lets the store look for one.
    redis_url: str | None = None

    #: What every key in Redis begins with, without the colon after it.
    prefix: str = "gf"

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or not _PREFIX_PATTERN.fullmatch(self.prefix):
            raise InvalidName(
                "prefix", str(self.prefix), "use 1 to 100 letters, digits, '_', '.', ':' or '-'"
            )

    def __repr__(self) -> str:
        # Reading a URL, to tell what of it may be shown, is the store's.
        is_set = "None" if self.redis_url is None else "***"
        return f"Settings(redis_url={is_set}, prefix={self.prefix!r})"


def load_settings(
    environ: Mapping[str, str] = os.environ, *, redis_url: str | None = None, prefix: str | None = None
) -> Settings:
    """Settle each setting: the argument, else `GRAPHFLOW_REDIS_URL` or `GRAPHFLOW_PREFIX`, else the default.

    None and the empty text mean "not set". Raises `InvalidName` for a prefix that cannot begin a key.
    """
    return Settings(
        redis_url=redis_url or environ.get("GRAPHFLOW_REDIS_URL") or None,
        prefix=prefix or environ.get("GRAPHFLOW_PREFIX") or "gf",
    )


def default_max_concurrent_tasks(asked: Iterable[int | None]) -> int:
    """Module runs at a time of a run whose nodes ask for so many each (`NodeConfig.max_concurrency`)."""
    return max((DEFAULT_MAX_CONCURRENT_TASKS, *(count or 0 for count in asked)))


def default_max_total_iterations(node_count: int) -> int:
    """Node runs after which a run of a graph of `node_count` nodes is failed (items and flow control not counted)."""
    return 100 + 10 * node_count
