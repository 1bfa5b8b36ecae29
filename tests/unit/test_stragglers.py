"""Durations of items: the median is about right, the slowest items are found, and memory does not grow."""

from __future__ import annotations

import random
import statistics

import pytest

from graphflow.engine.maps.stragglers import (
    ENOUGH_ITEMS,
    FLOOR_SECONDS,
    STRAGGLER_FACTOR,
    STRAGGLERS_KEPT,
    Durations,
)
from graphflow.store.fields import (
    median_from_text,
    median_text,
    stragglers_from_text,
    stragglers_text,
)


def durations_of(seconds: list[float]) -> Durations:
    durations = Durations()
    for index, each in enumerate(seconds):
        durations.note(index, each)
    return durations


def test_nothing_is_said_before_enough_items_have_ended() -> None:
    durations = durations_of([0.1] * (ENOUGH_ITEMS - 2) + [60.0])

    assert durations.median is None
    assert durations.report() == []

    durations.note(ENOUGH_ITEMS, 0.1)

    assert durations.median is not None
    assert durations.report() == [(ENOUGH_ITEMS - 2, 60.0)]


@pytest.mark.parametrize("scale", [0.0005, 0.02, 1.0, 300.0])
def test_median_is_right_to_a_few_per_cent(scale: float) -> None:
    draw = random.Random(7)
    seconds = [scale * draw.lognormvariate(0, 0.8) for _ in range(2_001)]

    assert durations_of(seconds).median == pytest.approx(statistics.median(seconds), rel=0.06)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9, 1e-5, 4_000.0, 1e9])
def test_any_duration_can_be_noted(seconds: float) -> None:
    median = durations_of([seconds] * ENOUGH_ITEMS).median

    assert median is not None
    assert 0 < median <= 2.0**12


def test_stragglers_come_slowest_first_and_are_ten_at_most() -> None:
    seconds = [1.0] * 1_000
    for place in range(20):
        seconds[50 * place] = 10.0 + place

    report = durations_of(seconds).report()

    assert len(report) == STRAGGLERS_KEPT
    assert report == [(50 * place, 10.0 + place) for place in range(19, 9, -1)]


def test_report_does_not_depend_on_the_order_in_which_items_ended() -> None:
    draw = random.Random(3)
    noted = [(index, 0.1 * draw.lognormvariate(0, 1.2)) for index in range(500)]
    reports = []
    for _ in range(5):
        draw.shuffle(noted)
        durations = Durations()
        for index, seconds in noted:
            durations.note(index, seconds)
        reports.append(durations.report())

    assert reports[0]
    assert all(report == reports[0] for report in reports)


def test_item_just_below_the_factor_is_no_straggler() -> None:
    durations = durations_of([1.0] * 99 + [0.9 * STRAGGLER_FACTOR])

    assert durations.report() == []


def test_item_below_the_floor_is_no_straggler_whatever_the_median() -> None:
    assert durations_of([0.0001] * 99 + [0.9 * FLOOR_SECONDS]).report() == []
    assert durations_of([0.0001] * 99 + [1.1 * FLOOR_SECONDS]).report() == [(99, 1.1 * FLOOR_SECONDS)]


def test_item_that_is_noted_twice_is_reported_once_with_its_longest_time() -> None:
    durations = durations_of([0.1] * 20)
    for seconds in (3.0, 9.0, 5.0):
        durations.note(7, seconds)

    assert durations.report() == [(7, 9.0)]


def test_report_and_median_come_back_from_their_texts() -> None:
    durations = durations_of([0.02] * 50 + [1.25, 0.5])
    report, median = durations.report(), durations.median

    assert stragglers_text(report) == "[[50,1.25],[51,0.5]]"
    assert stragglers_from_text(stragglers_text(report)) == tuple(report)
    assert median_from_text(median_text(median)) == pytest.approx(median, rel=0.001)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0001234, "0.1234"), (0.35, "350"), (12.5, "12500"), (4096.0, "4096000")]
)
def test_median_is_stored_as_plain_milliseconds(seconds: float, text: str) -> None:
    assert median_text(seconds) == text
    assert median_from_text(text) == seconds


def test_no_report_and_no_median_have_no_text() -> None:
    assert stragglers_text([]) is None
    assert stragglers_from_text(None) == ()
    assert median_text(None) is None
    assert median_from_text(None) is None
