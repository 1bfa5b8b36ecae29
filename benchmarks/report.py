"""One JSON line per measurement."""

from __future__ import annotations

import json
import platform


def report(workload: str, count: int, seconds: float, **more: object) -> None:
    line = {
        "workload": workload,
        "count": count,
        "seconds": round(seconds, 4),
        "per_second": round(count / seconds),
        "microseconds_each": round(seconds / count * 1e6, 1),
        "python": platform.python_version(),
        **more,
    }
    print(json.dumps(line))
