"""F1: kill -9 at random moments, one to three times a run: the same command, started again, brings every run to its
right end."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.graphs import ALL_FORMS, DELAYS, FORMS, REPEATING_FORMS, Form, executions, items_of
from tests.faults.harness import Job, looking_at, run_field, wait_bodies_begun
from tests.faults.invariants import FINAL, check_run
from tests.servers import RealServer

#: Runs at a time.
SIDE_BY_SIDE = 3
#: Seconds from the start of a process to its run's first step, at most about.
STARTING_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Moment:
    """When a victim is killed: so many seconds after so many bodies have begun in the run's whole life."""

    bodies: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Killed:
    """What became of one run."""

    kills: int
    #: Kills that met a run that had begun and was not over.
    hits: int
    #: Bodies that ran besides the first run of each item.
    repeated: int


@pytest.mark.parametrize(
    ("form", "runs"),
    [
        *((form, 8) for form in FORMS),
        ("seeking", 2),
        ("counting", 4),
        *(pytest.param(form, runs, marks=pytest.mark.long) for runs in (50, 500) for form in ALL_FORMS),
    ],
)
def test_f1_every_run_killed_at_random_moments_comes_to_its_right_end(
    form: Form, runs: int, redis_server: RealServer, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    numbers = random.Random(seed)
    plans = [_moments(numbers, form) for _ in range(runs)]

    def kill_and_finish(number: int) -> Killed:
        job = Job(redis_server.url, f"kill-{form}-{seed}-{number}", form, tmp_path / f"{number}.log")
        return _kill_and_finish(job, plans[number])

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        killed = list(pool.map(kill_and_finish, range(runs)))

    kills, hits, repeated = (
        sum(each) for each in zip(*((k.kills, k.hits, k.repeated) for k in killed), strict=True)
    )
    print(
        f"{form}: {runs} of {runs} right, {kills} kills, {hits} in the middle of a run, {repeated} bodies repeated"
    )
    if runs < 8:
        # Too few for the chances of a moment to even out.
        return
    assert kills >= runs, "every run was killed"
    assert hits > kills / 2, f"only {hits} of {kills} kills met a run in progress"


def _moments(numbers: random.Random, form: Form) -> list[Moment]:
    """One kill to three, anywhere between the start of the process and the last item."""
    items = items_of(form)
    found = sorted(numbers.randint(0, items) for _ in range(numbers.choice((1, 1, 2, 3))))
    return [
        Moment(bodies, numbers.uniform(0, DELAYS[form] if bodies else STARTING_SECONDS)) for bodies in found
    ]


def _kill_and_finish(job: Job, moments: list[Moment]) -> Killed:
    kills = hits = 0
    with looking_at(job.url) as client:
        for moment in moments:
            victim = job.start().wait_begun()
            wait_bodies_begun(job.log, moment.bodies)
            time.sleep(moment.seconds)
            kills += victim.kill()
            hits += run_field(client, job.run_id, "status") not in {None, "waiting", *FINAL}
        outcome = job.start().finish()
        assert outcome == job.right
        check_run(client, job.run_id, job.form)
    found = executions(job.log)
    assert set(found) == set(range(items_of(job.form))), "every item has run"
    if job.form not in REPEATING_FORMS:
        assert max(found.values()) <= 1 + kills, (
            f"an item was repeated more often than it was killed: {found}"
        )
    return Killed(kills, hits, sum(found.values()) - len(found))
