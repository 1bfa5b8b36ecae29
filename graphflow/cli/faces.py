"""How does a run look in a terminal? A progress line, a table of nodes, the failures; plain lines where no terminal is.

What is shown comes as plain values: from a `RunResult` after a run, from the store for `graphflow show`.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphflow.cli.frames import last_user_frame
from graphflow.cli.words import printable
from graphflow.codec import decode_plain, encode

if TYPE_CHECKING:
    from graphflow.result import RunFailure
    from graphflow.store.contract import MapProgress

#: Failures that are printed; the others are counted.
FAILURES_SHOWN = 10
#: Characters of a result or a task's parameters that are printed.
VALUE_CHARACTERS = 600
#: Slow items of a map that are printed.
SLOW_ITEMS_SHOWN = 3
#: Columns where the output is no terminal: nothing that fits is broken over lines.
PLAIN_WIDTH = 200
#: Seconds to the first plain progress line; each later one waits for half the time that has passed.
FIRST_LINE_SECONDS = 2.0

#: What an exception is to the one above it, for people.
_RELATIONS = {
    "member": "member",
    "cause": "caused by",
    "context": "while handling",
    "ending": "when its time was up it raised",
}

_COLOURS = {
    "succeeded": "green",
    "complete": "green",
    "failed": "red",
    "partial": "yellow",
    "cancelled": "yellow",
    "running": "cyan",
    "executing": "cyan",
    "waiting": "cyan",
    "skipped": "dim",
    "pending": "dim",
}


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node of a run. `items` is empty unless it is a map, `seconds` None if it never started."""

    name: str
    status: str
    visits: int
    attempts: int
    seconds: float | None
    items: str = ""


def items_text(done: int, failed: int, total: int) -> str:
    return f"{done}/{total}" + (f", {failed} failed" if failed else "")


class Face:
    """Prints to stdout, or to stderr if stdout is for the outcome alone. `live` allows a line that moves."""

    def __init__(self, *, to_stderr: bool = False, live: bool = True) -> None:
        self._console = Console(stderr=to_stderr, highlight=False, markup=False, emoji=False)
        if not self._console.is_terminal:
            self._console = Console(
                stderr=to_stderr, width=PLAIN_WIDTH, highlight=False, markup=False, emoji=False
            )
        self._is_live = live and self._console.is_terminal

    def say(self, text: str = "") -> None:
        """One line, however long: commands are to be copied."""
        self._console.print(printable(text), soft_wrap=True)

    def field(self, name: str, value: str) -> None:
        self._console.print(Text.assemble((f"{name:<9}", "dim"), printable(value)), soft_wrap=True)

    def status(self, name: str, status: str, rest: str = "") -> None:
        self._console.print(
            Text.assemble((f"{name:<9}", "dim"), _coloured(status), printable(rest)), soft_wrap=True
        )

    def table(
        self, headings: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()
    ) -> None:
        """`numbers` are the headings of columns to be aligned on the right. Words for a status are coloured."""
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for heading in headings:
            table.add_column(
                printable(heading), justify="right" if heading in numbers else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*(_coloured(cell) for cell in row))
        self._console.print(table)

    def nodes(self, rows: Sequence[NodeRow]) -> None:
        headings = ["NODE", "STATUS", "VISITS", "ATTEMPTS", "SECONDS"]
        numbers = headings[2:]
        if any(row.items for row in rows):
            headings.append("ITEMS")
        cells = [
            [row.name, row.status, str(row.visits), str(row.attempts), _seconds(row.seconds), row.items][
                : len(headings)
            ]
            for row in rows
        ]
        self.table(headings, cells, numbers=numbers)

    def maps(self, progress: Mapping[str, MapProgress]) -> None:
        """A line for each map, by its name."""
        headings = ["MAP", "ENDED", "FAILED", "RETRIED", "ACTIVE", "MEDIAN", "LEFT", "SLOW ITEMS"]
        rows = [[name, *_map_cells(each)] for name, each in progress.items()]
        if not any(each.stragglers for each in progress.values()):
            headings.pop()
            rows = [row[:-1] for row in rows]
        self.table(headings, rows, numbers=headings[1:7])

    def failures(self, failures: Sequence[RunFailure], *, more: str = "") -> None:
        """Each with the last frame of the user's code; `more` says where those that are not shown are."""
        for failure in failures[:FAILURES_SHOWN]:
            self.say(str(failure))
            self._frame(failure.traceback, "  ")
            for cause in failure.causes:
                indent = "  " * cause.depth
                self.say(f"{indent}{_RELATIONS.get(cause.relation, cause.relation)} {cause.summary}")
                self._frame(cause.traceback, f"{indent}  ")
        if more:
            self.say(more)

    def _frame(self, traceback: str, indent: str) -> None:
        if frame := last_user_frame(traceback):
            self.say(f"{indent}{frame}")

    @contextlib.contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Shows each text that it is given, with the seconds so far, as long as the block lasts."""
        if not self._is_live:
            yield _SparseLines(self).show
            return
        started = time.monotonic()
        with self._console.status("starting") as line:
            yield lambda text: line.update(Text(f"{printable(text)}, {time.monotonic() - started:.0f} s"))


class _SparseLines:
    """Progress as plain lines, ever further apart, so that a log stays short."""

    def __init__(self, face: Face) -> None:
        self._face = face
        self._started = time.monotonic()
        self._next = FIRST_LINE_SECONDS
        self._shown = ""

    def show(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        if seconds < self._next or text == self._shown:
            return
        self._face.say(f"{text}, {seconds:.0f} s")
        self._next, self._shown = seconds * 1.5, text


def value_text(value: Any) -> str:
    """A value as JSON, cut off if it is long."""
    text = json.dumps(plain(value), ensure_ascii=False)
    return text if len(text) <= VALUE_CHARACTERS else f"{text[:VALUE_CHARACTERS]}… ({len(text):,} characters)"


def plain(value: Any) -> Any:
    """A stored value as JSON data, without the types that it was registered with."""
    return decode_plain(encode(value))


def _coloured(text: str) -> Text:
    return Text(printable(text), style=_COLOURS.get(text, ""))


def _map_cells(progress: MapProgress) -> list[str]:
    total = "?" if progress.total is None else progress.total
    counts = (progress.failed, progress.retried, progress.active)
    slow = [f"{index} ({span_text(seconds)})" for index, seconds in progress.stragglers[:SLOW_ITEMS_SHOWN]]
    if len(progress.stragglers) > SLOW_ITEMS_SHOWN:
        slow.append("…")
    return [
        f"{progress.done + progress.failed}/{total}",
        *map(str, counts),
        span_text(progress.median_seconds),
        span_text(progress.eta_seconds or None),
        ", ".join(slow),
    ]


def span_text(seconds: float | None) -> str:
    """A stretch of time for people, as `35 ms`, `2.4 s`, `4 min 10 s`, `3 h 5 min`; empty for None."""
    if seconds is None:
        return ""
    if 0 < seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"
