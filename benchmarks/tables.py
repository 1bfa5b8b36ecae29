"""The results as tables: `python -m benchmarks.tables results.json` prints them, a second argument names a page to put them in.

The page has two comment lines, `<!-- results -->` and `<!-- end of results -->`; what is between them is replaced.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.results import EXTRAS, Row, rows
from benchmarks.workloads import WORKLOADS

BEGIN = "<!-- results -->\n"
END = "<!-- end of results -->\n"
#: The contestant that leaves nothing in Redis but the items of its map.
FROM_GENERATOR = "graphflow-generator"
#: Figures that are shown for the workloads they are about.
SHOWN = {
    "memory": ("megabytes_before", "peak_megabytes"),
    "footprint": ("redis_bytes_each", "log_bytes_each", "keys"),
}


def tables(results: dict[str, Any]) -> str:
    """Markdown: on what it was measured, a table for each workload and count, who failed, who was skipped."""
    found = rows(results["lines"])
    return "\n".join([*_heading(results), *_growth(found), *_tables(found), *_absent(results)]) + "\n"


def _heading(results: dict[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    yield (
        f"{results['rounds']} rounds, {machine['processors']} processors, {machine['system']}, "
        f"Python {machine['python']}, {machine['server']}."
    )
    yield ""
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in results["packages"].items()) + "."
    yield ""


def _tables(found: Sequence[Row]) -> Iterator[str]:
    for (workload, count), group in groupby(found, key=lambda row: (row.workload, row.count)):
        extras = SHOWN.get(workload, ())
        titles = [
            "",
            "seconds (least to most)",
            "per second",
            "µs each",
            "time / graphflow's",
            "time / limit's",
            *(EXTRAS[extra] for extra in extras),
            "what survives a crash",
        ]
        yield f"### {workload}, {count:,}: {WORKLOADS[workload].what}"
        yield ""
        yield _line(titles)
        yield _line(["---", *["---:"] * (len(titles) - 2), "---"])
        for row in group:
            yield _line(_cells(row, extras))
        yield ""


def _growth(found: Sequence[Row]) -> Iterator[str]:
    """One table for all counts of a long map, if there are several: its time and memory, and what it leaves in Redis."""
    streamed = {row.count: row for row in found if (row.workload, row.contestant) == ("memory", "graphflow")}
    left = {
        row.count: row for row in found if (row.workload, row.contestant) == ("footprint", FROM_GENERATOR)
    }
    if len(streamed) < 2:
        return
    yield "### As a map grows: items from a generator, results read as a stream"
    yield ""
    titles = [
        "items",
        "seconds",
        "µs each",
        *(EXTRAS[extra] for extra in (*SHOWN["memory"], *SHOWN["footprint"])),
    ]
    yield _line(titles)
    yield _line(["---:"] * len(titles))
    for count, row in sorted(streamed.items()):
        behind = left[count].extras if count in left else {}
        figures = [row.extras[extra] for extra in SHOWN["memory"]]
        figures += [behind[extra] for extra in SHOWN["footprint"] if extra in behind]
        cells = [f"{count:,}", f"{row.median:.3f}", f"{row.microseconds_each:,.1f}"]
        yield _line([*cells, *(f"{figure:,.0f}" for figure in figures)])
    yield ""


def _cells(row: Row, extras: Sequence[str]) -> list[str]:
    return [
        row.contestant,
        f"{row.median:.3f} ({row.least:.3f} to {row.most:.3f})",
        f"{row.per_second:,.0f}",
        f"{row.microseconds_each:,.1f}",
        _ratio(row.to_graphflow),
        _ratio(row.to_limit),
        *(f"{row.extras[extra]:,.0f}" for extra in extras),
        row.durable,
    ]


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:,.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _absent(results: dict[str, Any]) -> Iterator[str]:
    for failure in results["failed"]:
        yield f"* {failure['contestant']} failed at {failure['workload']} {failure['count']:,}: `{failure['why']}`"
    for name, why in results["skipped"].items():
        yield f"* {name} was skipped: {why}"


def replace_in(page: str, text: str) -> str:
    """The page with the text in its place. Raises ValueError if it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"the page has no lines {BEGIN.strip()} and {END.strip()}; put them where the tables belong"
        )
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"


def main(results: str, page: str | None = None) -> None:
    text = tables(json.loads(Path(results).read_text()))
    if page is None:
        print(text)
    else:
        Path(page).write_text(replace_in(Path(page).read_text(), text))


if __name__ == "__main__":
    main(*sys.argv[1:])
