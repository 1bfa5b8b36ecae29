"""What the counters of a map say about how far it is, and when they say nothing."""

from __future__ import annotations

import pytest

from graphflow import MapProgress
from graphflow.store.fields import time_text
from graphflow.store.progress import progress_from

START = 1_795_000_000_000.0
COUNTERS = {"visit": "2", "total": "100", "done": "20", "failed": "5", "retried": "3", "active": "10"}
NODE = {"visits": "2", "started": time_text(START)}
RUN = {"status": "executing", "owner": "here:1:1", "started": time_text(START - 5_000)}


def look(
    *,
    counters: dict[str, str] | None = None,
    node: dict[str, str] | None = None,
    run: dict[str, str] | None = None,
    status: str = "running",
    seconds: float = 50.0,
) -> MapProgress:
    """What is seen `seconds` after the visit's start; the arguments change single fields."""
    return progress_from(
        COUNTERS | (counters or {}), NODE | (node or {}), status, RUN | (run or {}), START + 1000 * seconds
    )


def test_rest_is_taken_to_go_as_fast_as_what_has_ended() -> None:
    progress = look()

    assert progress == MapProgress(100, 20, 5, 3, 10, eta_seconds=150.0)
    assert progress.fraction == 0.25


def test_median_and_stragglers_are_read_if_they_are_there() -> None:
    progress = look(counters={"median_ms": "250", "stragglers": "[[17,12.5],[3,4.0]]"})

    assert progress.median_seconds == 0.25
    assert progress.stragglers == ((17, 12.5), (3, 4.0))


@pytest.mark.parametrize(
    ("status", "changed"),
    [
        ("running", {"counters": {"done": "0", "failed": "0"}}),
        ("running", {"run": {"owner": ""}}),
        ("running", {"run": {"status": "suspended"}}),
        ("failed", {"run": {"status": "failed"}}),
        ("running", {"seconds": -3.0}),
        ("running", {"run": {"started": time_text(START + 5_000)}}),
    ],
    ids=["nothing ended", "no driver", "suspended", "stopped", "clocks differ", "forked while open"],
)
def test_no_time_is_named_where_none_can_be_said(status: str, changed: dict) -> None:
    assert look(status=status, **changed).eta_seconds is None


def test_nothing_is_left_of_a_map_that_is_done() -> None:
    progress = look(counters={"done": "95"}, run={"status": "partial", "owner": ""}, status="succeeded")

    assert (progress.eta_seconds, progress.fraction, progress.active) == (0.0, 1.0, 0)


def test_total_is_unknown_as_long_as_the_source_yields() -> None:
    counters = {name: text for name, text in COUNTERS.items() if name != "total"}

    progress = progress_from(counters, NODE, "running", RUN, START + 1000)

    assert (progress.total, progress.fraction, progress.eta_seconds) == (None, None, None)
    assert (progress.done, progress.active) == (20, 10)


def test_counters_of_an_earlier_visit_say_nothing_of_this_one() -> None:
    assert look(node={"visits": "3"}) == MapProgress()


def test_map_that_has_not_begun_has_no_progress() -> None:
    progress = progress_from({}, {}, "pending", RUN, START)

    assert progress == MapProgress()
    assert progress.fraction is None


def test_empty_map_is_done() -> None:
    progress = progress_from(
        {"visit": "1", "total": "0", "done": "0"}, {"visits": "1"}, "succeeded", RUN, START
    )

    assert (progress.fraction, progress.eta_seconds) == (1.0, 0.0)
