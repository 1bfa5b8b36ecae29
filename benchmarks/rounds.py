"""Every contestant in turn, several times over: each run a process of its own beside a fresh server.

In turn, so that whatever else the machine does falls on all of them alike; the order is turned by one from round to
round. A contestant that fails once is not asked again, nor is a peer that takes long.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.lineup import LINEUP, Contestant
from benchmarks.server import ServerAddress, fresh_server

#: A peer that takes longer than this many seconds is run in the first round only.
PATIENCE_SECONDS = 10.0
#: Seconds that a contestant gets to stop its workers when its time is over.
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What one run is about."""

    workload: str
    count: int
    contestant: str


@dataclass(slots=True)
class Record:
    """What came of all runs."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[Entry, str] = field(default_factory=dict)
    #: Contestants that could not take part, and why.
    skipped: dict[str, str] = field(default_factory=dict)


class RunFailed(Exception):
    """One run gave no measurement. Its text is the last line that the process wrote."""


def entries(
    contestants: Sequence[Contestant], workloads: Sequence[str], counts: Sequence[int] = ()
) -> list[Entry]:
    """What to run, by workload and count; `counts` replaces those of the line-up."""
    found = [
        Entry(workload, count, contestant.name)
        for contestant in contestants
        for workload, planned in contestant.counts.items()
        if workload in workloads
        for count in counts or planned
    ]
    return sorted(found, key=lambda entry: (workloads.index(entry.workload), entry.count))


def play(
    planned: Sequence[Entry], record: Record, *, rounds: int, limit_seconds: float, say: Callable[[str], None]
) -> None:
    """Run all of it `rounds` times; `say` is told about each run."""
    slow: set[Entry] = set()
    for number in range(rounds):
        for workload, count in dict.fromkeys((entry.workload, entry.count) for entry in planned):
            names = [
                entry.contestant for entry in planned if (entry.workload, entry.count) == (workload, count)
            ]
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                entry = Entry(workload, count, name)
                if entry in record.failed or (entry in slow and LINEUP[name].needs):
                    continue
                try:
                    line = run_once(entry, limit_seconds)
                except RunFailed as failure:
                    record.failed[entry] = str(failure)
                    say(f"round {number + 1}  {workload} {count}  {name}: failed: {failure}")
                else:
                    record.lines.append({"round": number + 1, **line})
                    if line["seconds"] > PATIENCE_SECONDS:
                        slow.add(entry)
                    say(f"round {number + 1}  {workload} {count}  {name}: {line['seconds']:.3f} s")


def run_once(entry: Entry, limit_seconds: float) -> dict[str, Any]:
    """One run in a process of its own. Raises `RunFailed`, also when it takes longer than `limit_seconds`."""
    with (
        fresh_server() as server,
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
    ):
        process = subprocess.Popen(
            _command(entry, server),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            # A group of its own: its workers are in it, and can be ended with it.
            start_new_session=True,
        )
        try:
            code = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"took longer than {limit_seconds:g} s") from None
        finally:
            _end(process)
        lines = [line for line in _read(output) if line.startswith("{")]
        if code != 0 or not lines:
            raise RunFailed((_read(errors) or [f"ended with exit code {code}"])[-1])
        measured: dict[str, Any] = json.loads(lines[-1])
        return measured


def _command(entry: Entry, server: ServerAddress) -> list[str]:
    asked = [entry.contestant, entry.workload, str(entry.count)]
    return [
        sys.executable,
        "-m",
        "benchmarks.once",
        *asked,
        "--socket",
        server.socket,
        "--port",
        str(server.port),
    ]


def _read(stream: Any) -> list[str]:
    stream.seek(0)
    return [line.strip() for line in stream.read().splitlines() if line.strip()]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process, if it still runs, and what it started: first by asking, so that it can end its workers itself."""
    descendants = list(_descendants(process.pid))
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in descendants:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _descendants(pid: int) -> Iterator[int]:
    """Processes that `pid` started, and those that they started, also such as left its group (Linux only)."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield child
                yield from _descendants(child)
