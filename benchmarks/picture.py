"""The picture for the README: how many items a second, by who kept them and who did not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.lineup import NOTHING, VALUES
from benchmarks.results import Row, rows

#: What is drawn, one panel each: workload, count, title.
PANELS = (
    ("fanout", 1_000, "1,000 no-op subtasks, split, processed, aggregated: per second"),
    ("chain", 1_000, "1,000 no-op steps, one after another: per second"),
)
COLOURS = {
    "graphflow": "#d9480f",
    "each step stored": "#1971c2",
    "values stored, not the run": "#91c2f0",
    "nothing stored": "#adb5bd",
    "limit of this machine": "#2b8a3e",
}


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write `benchmarks.svg` and `benchmarks.png`. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    panels = [(title, _panel(results, workload, count)) for workload, count, title in PANELS]
    panels = [(title, found) for title, found in panels if found]
    if not panels:
        return []
    matplotlib.rcParams["svg.hashsalt"] = "graphflow"
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(9, 0.6 * len(panels) + 0.27 * sum(len(found) for _, found in panels)),
        height_ratios=[len(found) + 1 for _, found in panels],
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, found) in zip(axes[:, 0], panels, strict=True):
        _bars(axis, title, found)
    handles = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items()]
    axes[0, 0].legend(handles=handles, fontsize=8)
    paths = [folder / "benchmarks.svg", folder / "benchmarks.png"]
    for path in paths:
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return paths


def _panel(results: dict[str, Any], workload: str, count: int) -> list[Row]:
    return [row for row in rows(results["lines"]) if (row.workload, row.count) == (workload, count)]


def _bars(axis: Any, title: str, found: Sequence[Row]) -> None:
    slowest_first = list(reversed(found))
    bars = axis.barh(
        [row.contestant for row in slowest_first],
        [row.per_second for row in slowest_first],
        color=[COLOURS[_kind(row)] for row in slowest_first],
    )
    axis.bar_label(bars, labels=[f"{row.per_second:,.0f}" for row in slowest_first], padding=3, fontsize=8)
    axis.set_xscale("log")
    axis.margins(x=0.12, y=0.02)
    axis.set_title(title, loc="left", fontsize=10)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _kind(row: Row) -> str:
    """Which of the colours a contestant has."""
    if row.contestant.startswith("graphflow"):
        return "graphflow"
    if row.contestant.startswith("limit"):
        return "limit of this machine"
    if row.durable.startswith(NOTHING):
        return "nothing stored"
    return "values stored, not the run" if row.durable == VALUES else "each step stored"
