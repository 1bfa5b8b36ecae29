"""Who takes part, in what, and with how many items? Nothing of a contestant is imported here, so all can be named anywhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

NOTHING = "nothing"

#: Items for graphflow and for the limits, by workload: what the others have, and more.
FAST: Mapping[str, tuple[int, ...]] = {
    "fanout": (1_000, 10_000, 100_000),
    "io": (1_000, 10_000),
    "payload": (1_000,),
    "footprint": (10_000,),
}


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    #: The file in contestants/, without `.py`.
    module: str
    #: What survives a crash of the process that runs it.
    durable: str
    #: Counts of items by workload; one that is not named here it does not take part in.
    counts: Mapping[str, tuple[int, ...]]
    #: The packages it needs, as they are imported.
    needs: tuple[str, ...] = field(default=())
    #: Which of the forms in that file.
    form: str = ""

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.needs if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


_CONTESTANTS = (
    Contestant(
        "graphflow",
        "graphflow_map",
        "each item, each node",
        {
            **FAST,
            "chain": (1_000,),
            "seven": (7,),
            "sync": (1_000, 10_000),
            "cpu": (64,),
            "memory": (100_000,),
        },
    ),
    Contestant("graphflow-claim", "graphflow_claim", "each subtask", {"seven": (7,)}),
    Contestant("limit-commit", "limit_commit", "each item", FAST),
    Contestant(
        "limit-batch", "limit_batch", "each batch of 100", {"fanout": FAST["fanout"], "payload": (1_000,)}
    ),
    Contestant("limit-lua", "limit_lua", "each step", {"chain": (1_000,)}),
    Contestant("limit-command", "limit_command", "each step", {"chain": (1_000,)}),
    Contestant("limit-socket", "limit_socket", "each step", {"chain": (1_000,)}),
    Contestant(
        "asyncio", "asyncio_gather", NOTHING, {"fanout": FAST["fanout"], "io": FAST["io"], "seven": (7,)}
    ),
    Contestant("threads", "threads", NOTHING, {"sync": (1_000, 10_000)}),
    Contestant("process-pool", "process_pool", NOTHING, {"cpu": (64,)}),
)

LINEUP: Mapping[str, Contestant] = {contestant.name: contestant for contestant in _CONTESTANTS}
