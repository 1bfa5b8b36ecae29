"""F1: SIGKILL at each commit point; the same command, given again, brings the run to its right end.

Where a point of the catalogue cannot exist in this design, the nearest one stands for it:

    CP1   run created, reply not seen             create.after_reply
    CP2   graph and input stored, not yet ready   lease.acquired: taken to be driven, nothing has begun
    CP3   planner returned, not committed         attempt.returned of the planner
    CP4   planner committed, decision not made    one commit holds both; outcome.taken: the planner's outcome is about to
                                                  be folded
    CP5   decision made, fan-out not committed    decision.made; of a map, map.opened: it exists in memory alone
    CP6   chunk k of n of the fan-out committed   a fan-out is one script: before it, and when its reply is lost
    CP7   fan-out complete, no wake-up sent       nothing is sent, items are taken from what is stored: map.entered;
                                                  without a map, commit.acknowledged of the commit that fans out
    CP8   item started, module not started        attempt.launched
    CP9   module running                          body.running, in the test's own body
    CP10  module returned, commit not sent        attempt.returned
    CP11  commit applied, reply not read          commit.after_reply
    CP12  last item applied, aggregator not       attempt.launched of the aggregator
          started
    CP13  aggregate computed, not committed       attempt.returned of the aggregator
    CP14  aggregate committed, edge not followed  one commit holds both: before it, when its reply is lost, after it
    CP15  retry being scheduled                   retry.scheduled
    CP16  lease renewal                           lease.renew, in the thread that renews
    CP17  expired lease found, not re-queued      there is no queue, the finder drives: lease.takeover
    CP18  cancel requested, not propagated        request.taken
    CP19  terminal state written, not cleaned up  run.ended, expire.before, lease.release, one after the other
    CP20  drain                                   drain.begun, and lease.release when all is committed

A place that one process passes often is tried at its first, second and last passage. At one that it passes once, the
process dies, then it and its successor, then three in a row, or the successor of one that died at the last item. All of
it in all forms, with `appendfsync` always and everysec: `pytest -m long tests/faults/test_f1_kill_matrix.py`.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from threading import Lock

import pytest

from graphflow.ids import RunId
from graphflow.requests import cancel_request
from graphflow.server.address import parse_address
from graphflow.store.redis_store import RedisStore
from tests.faults.graphs import (
    ALL_FORMS,
    FORMS,
    GENERATOR_FORMS,
    MAPS,
    NODES,
    REPEATING_FORMS,
    Form,
    executions,
    items_of,
)
from tests.faults.harness import (
    PATIENCE_SECONDS,
    Job,
    Victim,
    looking_at,
    wait_bodies_begun,
    wait_disconnected,
)
from tests.faults.invariants import check_over, check_run
from tests.servers import RealServer

SIDE_BY_SIDE = 2
APPENDFSYNC = ("always", "everysec")
OCCURRENCES = ("first", "second", "last")
LAST = "last"

#: Where one process after the other dies: failpoints with the turn at which they kill.
Deaths = tuple[str, ...]


def passages(place: str) -> tuple[Deaths, ...]:
    return (f"{place}@1",), (f"{place}@2",), (f"{place}@{LAST}",)


def in_a_row(first: str, then: str) -> tuple[Deaths, ...]:
    return (first,), (first, then), (first, then, then)


def entrance(place: str, *before: str) -> tuple[Deaths, ...]:
    """`before`: where the process has died whose run is entered."""
    entered = f"{place}@1"
    return (*before, entered), (*before, entered, entered), (f"body.running@{LAST}", entered)


@dataclass(frozen=True, slots=True)
class Point:
    """One commit point. `deaths` by occurrence; `deaths_of_map` where the map form differs."""

    deaths: tuple[Deaths, ...]
    deaths_of_map: tuple[Deaths, ...] | None = None
    #: Asked of the first process when so many bodies, by occurrence, have begun.
    asks: Callable[[Job, Victim], None] | None = None
    status: str = "complete"
    fails_once: bool = False
    lease_seconds: float = 10.0
    delay: float = 0.02


def ask_to_cancel(job: Job, _: Victim) -> None:
    async def post() -> None:
        async with RedisStore(parse_address(job.url)) as store:
            assert await store.post(RunId(job.run_id), cancel_request("enough"))

    asyncio.run(post())


def ask_to_drain(_: Job, victim: Victim) -> None:
    victim.send(signal.SIGTERM)


POINTS = {
    "CP1": Point(entrance("create.after_reply")),
    "CP2": Point(entrance("lease.acquired")),
    "CP3": Point(in_a_row("attempt.returned@1", "attempt.returned@1")),
    "CP4": Point(in_a_row("outcome.taken@3", "outcome.taken@3")),
    "CP5": Point(in_a_row("decision.made@2", "decision.made@1"), in_a_row("map.opened@1", "map.opened@1")),
    "CP6": Point(
        (
            ("commit.before_send@2",),
            ("commit.after_reply@2",),
            ("commit.before_send@2", "commit.after_reply@2"),
        ),
        (
            ("commit.before_send@3",),
            ("commit.after_reply@3",),
            ("commit.before_send@3", "commit.after_reply@2"),
        ),
    ),
    "CP7": Point(
        in_a_row("commit.acknowledged@2", "commit.acknowledged@1"), in_a_row("map.entered@1", "map.entered@1")
    ),
    "CP8": Point(passages("attempt.launched")),
    "CP9": Point(passages("body.running")),
    "CP10": Point(passages("attempt.returned")),
    "CP11": Point(passages("commit.after_reply")),
    "CP12": Point(in_a_row(f"attempt.launched@{LAST}", "attempt.launched@1")),
    "CP13": Point(in_a_row(f"attempt.returned@{LAST}", "attempt.returned@1")),
    "CP14": Point(
        tuple((f"commit.{place}@{LAST}",) for place in ("before_send", "after_reply", "acknowledged"))
    ),
    "CP15": Point(passages("retry.scheduled"), fails_once=True),
    "CP16": Point(passages("lease.renew"), lease_seconds=0.2, delay=0.08),
    "CP17": Point(entrance("lease.takeover", "body.running@1")),
    "CP18": Point(
        (("request.taken@1",), ("request.taken@1", "request.taken@1"), ("request.taken@1",)),
        asks=ask_to_cancel,
        status="cancelled",
        delay=0.15,
    ),
    "CP19": Point((("run.ended@1",), ("expire.before@1",), ("lease.release@1",))),
    "CP20": Point(
        (("drain.begun@1",), ("lease.release@1",), ("drain.begun@1",)), asks=ask_to_drain, delay=0.15
    ),
}

#: Points at which a generator makes a difference.
POINTS_OF_SOURCES = ("CP5", "CP7", "CP11")


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    occurrence: str
    form: Form
    appendfsync: str

    @property
    def point(self) -> Point:
        return POINTS[self.name]

    @property
    def deaths(self) -> Deaths:
        deaths = self.point.deaths
        if self.form != "naive" and self.point.deaths_of_map is not None:
            deaths = self.point.deaths_of_map
        return deaths[OCCURRENCES.index(self.occurrence)]

    @property
    def bodies(self) -> int:
        """How many bodies have begun when something is asked of the first process."""
        return {"first": 1, "second": 2, "last": items_of(self.form) - 1}[self.occurrence]


def some_cases(number: int, name: str) -> list[Case]:
    """Some forms, at one occurrence and in one mode each, so that all points together see all of them."""
    forms = [*FORMS, GENERATOR_FORMS[number % 2]] if name in POINTS_OF_SOURCES else FORMS
    return [
        Case(name, OCCURRENCES[(number + turn) % 3], form, APPENDFSYNC[(number // 3 + turn) % 2])
        for turn, form in enumerate(forms)
    ]


def all_cases(name: str) -> list[Case]:
    return [Case(name, *rest) for rest in product(OCCURRENCES, ALL_FORMS, APPENDFSYNC)]


@dataclass(slots=True)
class Bench:
    """The two servers, and how often runs that nothing disturbs pass each failpoint."""

    servers: dict[str, RealServer]
    folder: Path
    counts: dict[tuple[str, Form], dict[str, int]] = field(default_factory=dict)
    number: int = 0
    lock: Lock = field(default_factory=Lock)

    def job(self, case: Case) -> Job:
        with self.lock:
            self.number += 1
            number = self.number
        run_id = f"{case.name}-{case.occurrence}-{number}"
        point = case.point
        return Job(
            self.servers[case.appendfsync].url,
            run_id,
            case.form,
            self.folder / f"{run_id}.log",
            delay=point.delay,
            lease_seconds=point.lease_seconds,
            fails_once=point.fails_once,
        )

    def count(self, case: Case, place: str) -> int:
        # Points of which nothing is special share their undisturbed run.
        point = case.point
        key = f"{point.delay} {point.lease_seconds} {point.fails_once}", case.form
        if key not in self.counts:
            job = self.job(case)
            self.counts[key] = job.start("", "--count").finish()["passed"]
            found = executions(job.log)
            assert set(found) == set(range(items_of(case.form)))
            if case.form not in REPEATING_FORMS and not point.fails_once:
                assert set(found.values()) == {1}, "undisturbed, each item runs once"
            with looking_at(job.url) as client:
                check_run(client, job.run_id, case.form, fails_once=point.fails_once)
        return self.counts[key][place]

    def die_and_finish(self, case: Case) -> int:
        """Whatever dies, the run comes to its right end; how many processes have died."""
        place, _, turn = case.deaths[0].partition("@")
        # Outcomes that arrive together share a commit, so a run may pass a place less often than the one before.
        turns = range(self.count(case, place), 0, -1) if turn == LAST else [int(turn)]
        assert any(self.dies(case, f"{place}@{each}") for each in turns), f"{case}: {place} was never passed"
        return len(case.deaths)

    def dies(self, case: Case, first: str) -> bool:
        """Whether the first process came to where it was to die; then the others died, too, and the run was finished."""
        job = self.job(case)
        began = time.monotonic()
        victim = job.start(f"{first}=kill")
        victims = [victim]
        if case.point.asks is not None:
            wait_bodies_begun(job.log, case.bodies)
            case.point.asks(job, victim)
        if not victim.died():
            return False
        for place in case.deaths[1:]:
            victims.append(job.start(f"{place}=kill"))
            assert victims[-1].died(), f"{case}: {place} was not passed:\n{victims[-1].errors}"
        victims.append(job.start())
        outcome = victims[-1].finish()
        assert time.monotonic() - began < 2 * PATIENCE_SECONDS, f"{case}: the run took too long"
        self._check(case, job, outcome, victims)
        return True

    def _check(self, case: Case, job: Job, outcome: dict[str, object], victims: list[Victim]) -> None:
        point = case.point
        with looking_at(job.url) as client:
            if point.status == "complete":
                assert outcome == job.right, case
                check_run(client, job.run_id, case.form, fails_once=point.fails_once)
            else:
                assert outcome["status"] == point.status, case
                check_over(client, job.run_id, NODES[case.form], MAPS[case.form], status=point.status)
            wait_disconnected(client, [victim.process.pid for victim in victims])
        found = executions(job.log)
        if point.status == "complete":
            assert set(found) == set(range(items_of(case.form))), case
        if case.form not in REPEATING_FORMS:
            deaths = len(victims) - 1
            assert max(found.values(), default=0) <= 1 + deaths + point.fails_once, (case, found)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with RealServer(appendfsync="always") as always, RealServer(appendfsync="everysec") as everysec:
        yield Bench({"always": always, "everysec": everysec}, tmp_path_factory.mktemp("matrix"))


def die_side_by_side(bench: Bench, cases: list[Case]) -> None:
    # Counted one after the other: an undisturbed run is to be undisturbed.
    for case in cases:
        if case.deaths[0].endswith(LAST):
            bench.count(case, case.deaths[0].partition("@")[0])
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        deaths = sum(pool.map(bench.die_and_finish, cases))
    print(f"{cases[0].name}: {len(cases)} of {len(cases)} right, {deaths} deaths")


@pytest.mark.parametrize(("number", "name"), [*enumerate(POINTS)], ids=[*POINTS])
def test_f1_run_whose_process_dies_at_a_commit_point_comes_to_its_right_end(
    number: int, name: str, bench: Bench
) -> None:
    die_side_by_side(bench, some_cases(number, name))


@pytest.mark.long
@pytest.mark.parametrize("name", POINTS)
def test_f1_every_occurrence_of_a_commit_point_in_both_modes_of_the_log(name: str, bench: Bench) -> None:
    die_side_by_side(bench, all_cases(name))


@pytest.mark.long
@pytest.mark.parametrize("form", ALL_FORMS)
def test_f1_run_that_dies_before_at_or_after_any_commit_comes_to_its_right_end(
    form: Form, bench: Bench
) -> None:
    case = Case("CP11", "first", form, "everysec")
    failpoints = [
        f"{place}@{turn}"
        for place in ("commit.before", "commit.before_send", "commit.after_reply")
        for turn in range(1, bench.count(case, place) + 1)
    ]

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        died = list(pool.map(lambda first: bench.dies(case, first), failpoints))

    print(f"{form}: died at {sum(died)} of {len(died)} places, right each time")
    assert sum(died) > 0.8 * len(died)
