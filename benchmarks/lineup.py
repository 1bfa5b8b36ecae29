"""Who takes part, in what, and with how many items? Nothing of a contestant is imported here, so all can be named anywhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

#: What survives a crash, where it is less than each item; the picture tells these apart.
NOTHING = "nothing"
VALUES = "values, not the run"

#: Items for graphflow and for the limits, by workload: what the others have, and more.
FAST: Mapping[str, tuple[int, ...]] = {
    "fanout": (200, 1_000, 10_000, 100_000),
    "io": (1_000, 10_000),
    "payload": (1_000,),
    "footprint": (10_000,),
}
#: Items of a long map.
LONG = (1_000, 10_000, 100_000, 1_000_000)
#: Steps of a chain for the same.
CHAIN = (200, 1_000)


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


_LANGGRAPH = ("langgraph", "langgraph.checkpoint.sqlite")

_CONTESTANTS = (
    Contestant(
        "graphflow",
        "graphflow_map",
        "each item, each node",
        {
            **FAST,
            "chain": CHAIN,
            "seven": (7,),
            "sync": (1_000, 10_000),
            "cpu": (64,),
            "memory": LONG,
        },
    ),
    Contestant(
        "graphflow-generator",
        "graphflow_map",
        "each item",
        {"fanout": (10_000, 100_000), "footprint": LONG},
        form="generator",
    ),
    Contestant("graphflow-claim", "graphflow_claim", "each subtask", {"seven": (7,)}),
    Contestant("limit-commit", "limit_commit", "each item", FAST),
    Contestant(
        "limit-batch", "limit_batch", "each batch of 100", {"fanout": FAST["fanout"], "payload": (1_000,)}
    ),
    Contestant("limit-facts", "limit_facts", "each step", {"chain": CHAIN}),
    Contestant("limit-lua", "limit_lua", "each step", {"chain": CHAIN}),
    Contestant("limit-command", "limit_command", "each step", {"chain": CHAIN}),
    Contestant("limit-socket", "limit_socket", "each step", {"chain": CHAIN}),
    Contestant(
        "asyncio", "asyncio_gather", NOTHING, {"fanout": FAST["fanout"], "io": FAST["io"], "seven": (7,)}
    ),
    Contestant("threads", "threads", NOTHING, {"sync": (1_000, 10_000)}),
    Contestant("process-pool", "process_pool", NOTHING, {"cpu": (64,)}),
    Contestant(
        "asimov-style",
        "asimov_style",
        VALUES,
        {"fanout": (1_000, 10_000), "payload": (1_000,), "chain": (1_000,), "footprint": (10_000,)},
    ),
    Contestant(
        "langgraph",
        "langgraph_send",
        NOTHING,
        {"fanout": (1_000, 10_000), "io": (1_000,), "chain": (1_000,)},
        needs=_LANGGRAPH,
    ),
    Contestant(
        "langgraph-aiosqlite",
        "langgraph_send",
        "each item, each step",
        {"fanout": (1_000,), "io": (1_000,), "payload": (1_000,), "chain": (1_000,)},
        needs=_LANGGRAPH,
        form="aiosqlite",
    ),
    Contestant(
        "langgraph-sqlite",
        "langgraph_send",
        "each item, each step",
        {"fanout": (1_000,), "payload": (1_000,), "chain": (1_000,)},
        needs=_LANGGRAPH,
        form="sqlite",
    ),
    Contestant(
        "langgraph-redis",
        "langgraph_send",
        "each item, each step",
        {"fanout": (1_000,), "io": (1_000,), "payload": (1_000,), "chain": (1_000,)},
        needs=(*_LANGGRAPH, "langgraph.checkpoint.redis"),
        form="redis",
    ),
    Contestant(
        "pydantic-graph",
        "pydantic_graph_map",
        NOTHING,
        {"fanout": (1_000, 10_000), "io": (1_000,), "chain": (1_000,)},
        needs=("pydantic_graph",),
    ),
    Contestant(
        "burr-sqlite",
        "burr_mapstates",
        "each step",
        {"fanout": (1_000,), "payload": (1_000,), "chain": (1_000,)},
        needs=("burr",),
        form="sqlite",
    ),
    Contestant(
        "burr-redis",
        "burr_mapstates",
        "each step",
        {"fanout": (1_000,), "io": (1_000,), "payload": (1_000,), "chain": (1_000,)},
        needs=("burr",),
        form="redis",
    ),
    Contestant(
        "celery",
        "celery_chord",
        "each task, mostly",
        {"fanout": (1_000,), "payload": (1_000,), "chain": (1_000,), "cpu": (64,)},
        needs=("celery",),
    ),
    Contestant(
        "dramatiq",
        "dramatiq_group",
        "each message",
        {"fanout": (1_000, 10_000), "payload": (1_000,)},
        needs=("dramatiq",),
    ),
    Contestant(
        "taskiq",
        "taskiq_tasks",
        "each job's result",
        {"fanout": (1_000,), "io": (1_000,), "payload": (1_000,)},
        needs=("taskiq", "taskiq_redis"),
    ),
    Contestant(
        "arq",
        "arq_jobs",
        "each job",
        {"fanout": (1_000,), "io": (1_000,), "payload": (1_000,)},
        needs=("arq",),
    ),
    Contestant(
        "ray",
        "ray_tasks",
        "nothing after the driver",
        {"fanout": (1_000, 10_000), "io": (1_000,), "cpu": (64,)},
        needs=("ray",),
    ),
    Contestant(
        "dbos",
        "dbos_steps",
        "each step",
        {"fanout": (1_000,), "io": (1_000,), "payload": (1_000,), "chain": (1_000,)},
        needs=("dbos",),
    ),
    Contestant("dbos-queue", "dbos_steps", "each step", {"fanout": (200,)}, needs=("dbos",), form="queue"),
    Contestant(
        "prefect", "prefect_map", "each task run", {"fanout": (200,), "chain": (200,)}, needs=("prefect",)
    ),
)

LINEUP: Mapping[str, Contestant] = {contestant.name: contestant for contestant in _CONTESTANTS}
