"""What came out: the median of each contestant at each count, its spread, and its ratio to graphflow and to the limit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.rounds import Record
from benchmarks.server import binary
from benchmarks.workloads import WORKLOADS

#: Distributions whose versions are recorded, if they are installed.
PACKAGES = (
    "graphflow-engine",
    "redis",
    "hiredis",
    "pydantic",
    "apache-burr",
    "arq",
    "celery",
    "dbos",
    "dramatiq",
    "langgraph",
    "langgraph-checkpoint-sqlite",
    "langgraph-checkpoint-redis",
    "prefect",
    "pydantic-graph",
    "ray",
    "taskiq",
    "taskiq-redis",
)
#: What a line may hold beyond its time: figure, and how it is called in a table.
EXTRAS = {
    "peak_megabytes": "peak MB",
    "megabytes_before": "MB before",
    "redis_bytes_each": "bytes of Redis each",
    "log_bytes_each": "bytes of AOF each",
    "keys": "keys",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant at one count of one workload; times are in seconds. A ratio is above 1 for who is slower."""

    workload: str
    count: int
    contestant: str
    durable: str
    median: float
    least: float
    most: float
    to_graphflow: float | None
    to_limit: float | None
    #: Medians of what else was measured.
    extras: dict[str, float]

    @property
    def per_second(self) -> float:
        return self.count / self.median

    @property
    def microseconds_each(self) -> float:
        return self.median / self.count * 1e6


def to_json(record: Record, *, rounds: int) -> dict[str, Any]:
    """All that was measured and on what, for a file."""
    return {
        "machine": {
            "processors": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "server": str(binary()),
        },
        "packages": dict(_versions()),
        "rounds": rounds,
        "skipped": record.skipped,
        "failed": [
            {"workload": entry.workload, "count": entry.count, "contestant": entry.contestant, "why": why}
            for entry, why in record.failed.items()
        ],
        "lines": record.lines,
    }


def _versions() -> Iterable[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue


def rows(lines: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows of all tables, fastest first within each workload and count."""
    runs: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        runs.setdefault((line["workload"], line["count"]), {}).setdefault(line["contestant"], []).append(line)
    return [
        row
        for (workload, count), by_name in runs.items()
        for row in sorted(_rows(workload, count, by_name), key=lambda row: row.median)
    ]


def _rows(workload: str, count: int, by_name: dict[str, list[dict[str, Any]]]) -> Iterable[Row]:
    medians = {name: statistics.median(_of(lines, "seconds")) for name, lines in by_name.items()}
    for name, lines in by_name.items():
        yield Row(
            workload=workload,
            count=count,
            contestant=name,
            durable=lines[0]["durable"],
            median=medians[name],
            least=min(_of(lines, "seconds")),
            most=max(_of(lines, "seconds")),
            to_graphflow=_ratio(medians[name], medians.get("graphflow")),
            to_limit=_ratio(medians[name], medians.get(WORKLOADS[workload].limit or "")),
            extras={extra: statistics.median(_of(lines, extra)) for extra in EXTRAS if extra in lines[0]},
        )


def _of(lines: Sequence[dict[str, Any]], figure: str) -> list[float]:
    return [line[figure] for line in lines]


def _ratio(seconds: float, other: float | None) -> float | None:
    return None if other is None else seconds / other
