"""One run of one contestant: `python -m benchmarks.once CONTESTANT WORKLOAD COUNT`. Checks the answer, prints one JSON line.

In full: `python -m benchmarks.once graphflow fanout 10000`. Without `--socket` and `--port` it starts a server for itself.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.footprint import Footprint
from benchmarks.lineup import LINEUP, Contestant
from benchmarks.memory import peak_megabytes
from benchmarks.occasion import Occasion
from benchmarks.server import ServerAddress, fresh_server
from benchmarks.workers import SOCKET_VARIABLE
from benchmarks.workloads import WORKLOADS


class WrongAnswer(Exception):
    """A contestant came to another answer than the workload has; its time means nothing."""


def measure(contestant: Contestant, workload: str, count: int, server: ServerAddress) -> dict[str, Any]:
    """Have the contestant do `count` items of the workload. Raises `WrongAnswer`."""
    with tempfile.TemporaryDirectory(prefix="gf-bench-") as folder:
        occasion = Occasion(WORKLOADS[workload], count, contestant.form, server, Path(folder))
        footprint = Footprint(server)
        if workload == "footprint":
            occasion.on_start = footprint.look
        elif workload == "memory":
            occasion.on_start = lambda: occasion.more.update(megabytes_before=round(peak_megabytes(), 1))
        answer = _perform(contestant, occasion)
    expected = occasion.workload.answer(count)
    if answer != expected:
        raise WrongAnswer(f"{contestant.name} came to {answer!r} for {count} of {workload}, not {expected}")
    if workload == "footprint":
        occasion.more.update(footprint.left_by(count))
    return _line(contestant, occasion)


def _perform(contestant: Contestant, occasion: Occasion) -> object:
    # Before the import: a contestant with workers makes its broker when it is imported, here and in them.
    os.environ[SOCKET_VARIABLE] = occasion.server.socket
    module = importlib.import_module(f"benchmarks.contestants.{contestant.module}")
    function = getattr(module, occasion.workload.name, None) or module.each_item
    answer = function(occasion)
    return asyncio.run(answer) if inspect.iscoroutine(answer) else answer


def _line(contestant: Contestant, occasion: Occasion) -> dict[str, Any]:
    return {
        "contestant": contestant.name,
        "workload": occasion.workload.name,
        "count": occasion.count,
        "seconds": round(occasion.seconds, 5),
        "per_second": round(occasion.count / occasion.seconds),
        "microseconds_each": round(occasion.seconds / occasion.count * 1e6, 1),
        "durable": contestant.durable,
        "peak_megabytes": round(peak_megabytes(), 1),
        **occasion.more,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.once", description="one run of one contestant"
    )
    parser.add_argument("contestant", choices=LINEUP)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("count", type=int)
    parser.add_argument("--socket", help="path of the socket of a server that is up, and empty")
    parser.add_argument("--port", type=int, help="its port on the loopback interface")
    asked = parser.parse_args()
    contestant = LINEUP[asked.contestant]
    if asked.socket is not None:
        line = measure(contestant, asked.workload, asked.count, ServerAddress(asked.socket, asked.port))
    else:
        with fresh_server() as server:
            line = measure(contestant, asked.workload, asked.count, server)
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
