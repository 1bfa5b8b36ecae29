"""All benchmarks in turn: `python -m benchmarks`. Prints tables; leaves `results.json` and a picture in a folder.

The machine is shared by all runs and by whatever else it does: only ratios within one such run mean anything.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks import picture, results
from benchmarks.lineup import LINEUP, Contestant
from benchmarks.rounds import Record, entries, play
from benchmarks.tables import tables
from benchmarks.workloads import WORKLOADS

#: Seconds for one run of one contestant, its start and warm-up included.
LIMIT_SECONDS = 60.0


def main() -> None:
    asked = _arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    record = Record()
    contestants = _present([LINEUP[name] for name in asked.contestant or LINEUP], record)
    planned = entries(contestants, asked.workload or list(WORKLOADS), asked.count)
    try:
        play(planned, record, rounds=asked.rounds, limit_seconds=asked.limit, say=_say)
    except KeyboardInterrupt:
        _say("stopped; what follows is what was measured until now")
    found = results.to_json(record, rounds=asked.rounds)
    (asked.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    print(tables(found))
    _draw(found, asked.out)
    _say(f"{time.monotonic() - begun:.0f} s in all; results are in {asked.out}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (3)")
    parser.add_argument(
        "--workload", action="append", choices=WORKLOADS, help="only this one; may be repeated"
    )
    parser.add_argument(
        "--contestant", action="append", choices=LINEUP, help="only this one; may be repeated"
    )
    parser.add_argument(
        "--count", action="append", type=int, default=[], help="this many items instead of those planned"
    )
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds for one run (60)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="folder for what is written"
    )
    return parser.parse_args()


def _present(contestants: list[Contestant], record: Record) -> list[Contestant]:
    for contestant in contestants:
        if contestant.missing:
            record.skipped[contestant.name] = f"not installed: {', '.join(contestant.missing)}"
            _say(f"{contestant.name} is skipped, {record.skipped[contestant.name]}")
    return [contestant for contestant in contestants if not contestant.missing]


def _draw(found: dict[str, object], folder: Path) -> None:
    try:
        picture.draw(found, folder)
    except ImportError as missing:
        _say(f"no picture ({missing}); for one: pip install 'graphflow-engine[bench]'")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
