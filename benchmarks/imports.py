"""What importing costs beyond bare Python, median of several: `python -m benchmarks.imports`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

ROUNDS = 9


def seconds(code: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begun


def main() -> None:
    statements = {
        "import graphflow": "import graphflow",
        "from graphflow import Agent": "from graphflow import Agent",
        "graphflow --help": "import sys; sys.argv = ['graphflow', '--help']; sys.stdout = open('/dev/null', 'w')\n"
        "from graphflow.cli.main import main\nmain()",
    }
    beyond: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(ROUNDS):
        bare = seconds("pass")
        for name, code in statements.items():
            beyond[name].append(seconds(code) - bare)
    for name, measured in beyond.items():
        print(json.dumps({"what": name, "seconds": round(statistics.median(measured), 4)}))


if __name__ == "__main__":
    main()
