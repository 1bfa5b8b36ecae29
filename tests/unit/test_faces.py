"""Maps as `graphflow show` prints them."""

from __future__ import annotations

import pytest

from graphflow import MapProgress
from graphflow.cli.faces import Face, span_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0, "0.0 s"),
        (0.00041, "0.41 ms"),
        (0.035, "35 ms"),
        (0.9999, "1.0 s"),
        (2.44, "2.4 s"),
        (99.94, "99.9 s"),
        (250, "4 min 10 s"),
        (11_100, "3 h 5 min"),
    ],
)
def test_stretches_of_time_are_rounded_for_people(seconds: float | None, text: str) -> None:
    assert span_text(seconds) == text


def test_a_map_is_one_line_with_its_slowest_items(capsys: pytest.CaptureFixture[str]) -> None:
    slow = tuple((index, 30.0 - index) for index in range(5))
    progress = MapProgress(1000, 200, 3, 7, 100, eta_seconds=250.0, median_seconds=0.4, stragglers=slow)

    Face().maps({"fetch": progress, "parse": MapProgress(total=None, done=12)})

    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == [
        "MAP", "ENDED", "FAILED", "RETRIED", "ACTIVE", "MEDIAN", "LEFT", "SLOW", "ITEMS"
    ]  # fmt: skip
    assert first.split() == [
        *("fetch", "203/1000", "3", "7", "100", "400", "ms", "4", "min", "10", "s"),
        *("0", "(30.0", "s),", "1", "(29.0", "s),", "2", "(28.0", "s),", "…"),
    ]
    assert second.split() == ["parse", "12/?", "0", "0", "0"]


def test_slow_items_have_no_column_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    Face().maps({"fetch": MapProgress(total=2, done=2, eta_seconds=0.0)})

    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[-1] == "LEFT"
    assert row.split() == ["fetch", "2/2", "0", "0", "0"]


def test_what_others_wrote_is_printed_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    foreign = "\x1b[2J\u202e\x07\udcff\r"
    face = Face()

    face.say(foreign)
    face.field("name", foreign)
    face.status("status", foreign, foreign)
    face.table([foreign], [[foreign]])

    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert printed.count(r"\x1b[2J\u202e\x07\udcff\r") == 6
