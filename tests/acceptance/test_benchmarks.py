"""The benchmarks: they come to the right answers, say so when somebody does not, and no test looks at their times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rounds, workloads
from benchmarks.lineup import LINEUP, Contestant
from benchmarks.once import WrongAnswer, measure
from benchmarks.results import rows, to_json
from benchmarks.rounds import Entry, Record, RunFailed, entries, play, run_once
from benchmarks.server import ServerAddress, fresh_server
from benchmarks.tables import replace_in, tables
from benchmarks.workloads import WORKLOADS

SMALL = {"io": 5, "cpu": 4, "seven": 7}
OWN = [contestant for contestant in LINEUP.values() if not contestant.needs]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerAddress]:
    with fresh_server() as address:
        yield address


@pytest.mark.parametrize(
    ("contestant", "workload"),
    [
        pytest.param(contestant, workload, id=f"{contestant.name}-{workload}")
        for contestant in OWN
        for workload in contestant.counts
    ],
)
def test_contestant_comes_to_the_answer_of_the_workload(
    contestant: Contestant, workload: str, server: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads, "WAIT_SECONDS", 0.01)
    count = SMALL.get(workload, 120)

    line = measure(contestant, workload, count, server)

    assert (line["contestant"], line["workload"], line["count"]) == (contestant.name, workload, count)
    assert line["seconds"] > 0


def test_footprint_says_what_was_left_and_not_what_was_there_before() -> None:
    with fresh_server() as server:
        line = measure(LINEUP["limit-commit"], "footprint", 300, server)

    assert line["keys"] == 1
    assert 1 < line["redis_bytes_each"] < 200
    assert 1 < line["log_bytes_each"] < 200


def test_contestant_with_another_answer_is_refused(
    server: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted = replace(WORKLOADS["fanout"], answer=lambda count: -1)
    monkeypatch.setitem(WORKLOADS, "fanout", shifted)

    with pytest.raises(WrongAnswer, match="asyncio came to 90 for 10 of fanout, not -1"):
        measure(LINEUP["asyncio"], "fanout", 10, server)


def test_run_is_a_process_that_prints_one_line() -> None:
    line = run_once(Entry("fanout", 100, "asyncio"), limit_seconds=30)

    assert (line["contestant"], line["count"]) == ("asyncio", 100)


def test_run_that_takes_too_long_is_ended_and_named() -> None:
    with pytest.raises(RunFailed, match=r"took longer than 0\.1 s"):
        run_once(Entry("io", 1, "asyncio"), limit_seconds=0.1)


def test_run_that_fails_is_named_with_its_last_line() -> None:
    with pytest.raises(RunFailed, match=r"AttributeError: .*no attribute 'each_item'"):
        run_once(Entry("fanout", 1, "limit-socket"), limit_seconds=30)


def test_runs_are_interleaved_and_who_failed_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(entry: Entry, limit_seconds: float) -> dict[str, Any]:
        asked.append(entry.contestant)
        if entry.contestant == "threads":
            raise RunFailed("no threads left")
        return _line(entry.contestant, 0.5)

    monkeypatch.setattr(rounds, "run_once", run)
    record = Record()
    planned = [Entry("fanout", 10, name) for name in ("graphflow", "threads", "asyncio")]

    play(planned, record, rounds=3, limit_seconds=1, say=lambda text: None)

    assert asked == ["graphflow", "threads", "asyncio", "asyncio", "graphflow", "asyncio", "graphflow"]
    assert record.failed == {Entry("fanout", 10, "threads"): "no threads left"}
    assert [line["round"] for line in record.lines] == [1, 1, 2, 2, 3, 3]


def test_peer_that_takes_long_is_run_in_the_first_round_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "run_once", lambda entry, limit_seconds: _line(entry.contestant, 11.0))
    record = Record()
    planned = [Entry("fanout", 10, name) for name in ("graphflow", "celery")]

    play(planned, record, rounds=2, limit_seconds=1, say=lambda text: None)

    assert [line["contestant"] for line in record.lines] == ["graphflow", "celery", "graphflow"]


def test_every_count_of_a_peer_is_one_that_graphflow_is_given_too() -> None:
    planned = entries(list(LINEUP.values()), list(WORKLOADS))
    ours = {(entry.workload, entry.count) for entry in planned if entry.contestant == "graphflow"}
    others = {
        (entry.workload, entry.count) for entry in planned if not entry.contestant.startswith("graphflow")
    }

    assert others <= ours


def test_limit_of_each_workload_is_measured_wherever_graphflow_is() -> None:
    ours = LINEUP["graphflow"].counts

    for workload in WORKLOADS.values():
        if workload.limit is not None:
            assert LINEUP[workload.limit].counts[workload.name] == ours[workload.name]


def test_tables_show_medians_spreads_and_ratios() -> None:
    times = {"graphflow": [0.2, 0.1, 0.9], "limit-commit": [0.1, 0.1, 0.1], "dramatiq": [2.0, 4.0, 3.0]}
    record = Record(
        lines=[_line(name, seconds) for name, all_of_it in times.items() for seconds in all_of_it],
        failed={Entry("fanout", 10, "celery"): "ConnectionError: refused"},
        skipped={"ray": "not installed: ray"},
    )

    text = tables(json.loads(json.dumps(to_json(record, rounds=3))))

    assert "| graphflow | 0.200 (0.100 to 0.900) | 50 | 20,000.0 | 1.00 | 2.00 | each item |" in text
    assert "| dramatiq | 3.000 (2.000 to 4.000) | 3 | 300,000.0 | 15.00 | 30.00 | each item |" in text
    assert "* celery failed at fanout 10: `ConnectionError: refused`" in text
    assert "* ray was skipped: not installed: ray" in text
    assert [row.contestant for row in rows(record.lines)] == ["limit-commit", "graphflow", "dramatiq"]


def test_counts_of_a_long_map_stand_in_one_table() -> None:
    memory = {"megabytes_before": 50.2, "peak_megabytes": 52.9}
    footprint = {"redis_bytes_each": 84.1, "log_bytes_each": 61.3, "keys": 9}
    lines = [
        {**_line("graphflow", 0.1), "workload": "memory", "count": 1_000, **memory},
        {**_line("graphflow", 0.9), "workload": "memory", "count": 100_000, **memory},
        {**_line("graphflow-generator", 0.9), "workload": "footprint", "count": 100_000, **footprint},
    ]

    text = tables(json.loads(json.dumps(to_json(Record(lines=lines), rounds=1))))

    assert "| 1,000 | 0.100 | 100.0 | 50 | 53 |" in text
    assert "| 100,000 | 0.900 | 9.0 | 50 | 53 | 84 | 61 | 9 |" in text


def test_tables_take_their_place_in_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()

    replaced = replace_in(page, "the tables")

    assert "<!-- results -->\n\nthe tables\n\n<!-- end of results -->" in replaced
    assert replace_in(replaced, "the tables") == replaced
    with pytest.raises(ValueError, match="has no lines"):
        replace_in("another page", "the tables")


def test_page_names_every_workload_and_every_contestant() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()

    assert [name for name in [*WORKLOADS, *LINEUP] if f"`{name}`" not in page] == []


def _line(contestant: str, seconds: float) -> dict[str, Any]:
    return {
        "workload": "fanout",
        "count": 10,
        "contestant": contestant,
        "seconds": seconds,
        "durable": "each item",
    }
