"""kill -9 at random moments: the same command, started again, brings every run to its right end."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.graphs import COUNTS, FORMS, Form, answer_of, executions
from tests.faults.harness import Job, looking_at, run_field
from tests.faults.invariants import FINAL, check_run
from tests.servers import RealServer

RUNS = 50
#: Runs at a time.
SIDE_BY_SIDE = 3
#: Seconds after its start within which a victim is killed: about what the run takes from there to its end.
SPAN: dict[Form, float] = {"naive": 0.27, "map": 0.32}


@dataclass(frozen=True, slots=True)
class Killed:
    """What became of one run."""

    kills: int
    #: Kills that met a run that had begun and was not over.
    hits: int
    executions: dict[int, int]


@pytest.mark.parametrize("form", FORMS)
def test_every_run_killed_at_random_moments_comes_to_its_right_end(
    form: Form, redis_server: RealServer, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    numbers = random.Random(seed)
    plans = [[numbers.uniform(0.01, SPAN[form]) for _ in range(numbers.choice((1, 1, 2)))] for _ in range(RUNS)]

    def kill_and_finish(number: int) -> Killed:
        job = Job(redis_server.url, f"kill-{form}-{seed}-{number}", form, tmp_path / f"{number}.log")
        return _kill_and_finish(job, plans[number])

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        runs = list(pool.map(kill_and_finish, range(RUNS)))

    kills, hits = sum(run.kills for run in runs), sum(run.hits for run in runs)
    repeated = sum(sum(run.executions.values()) - len(run.executions) for run in runs)
    print(f"{form}: {RUNS} of {RUNS} right, {kills} kills, {hits} of them in the middle, {repeated} items repeated")
    assert hits > kills * 0.6, f"only {hits} of {kills} kills met a run in progress"


def _kill_and_finish(job: Job, moments: list[float]) -> Killed:
    kills = hits = 0
    with looking_at(job.url) as client:
        for moment in moments:
            victim = job.start().wait_begun()
            time.sleep(moment)
            if victim.kill():
                kills += 1
            hits += run_field(client, job.run_id, "status") not in {None, "waiting", *FINAL}
        outcome = job.start().wait_begun().finish()
        assert outcome == {"status": "complete", "error": None, "answer": answer_of(job.form)}
        check_run(client, job.run_id, job.form)
    found = executions(job.log)
    assert set(found) == set(range(-(-COUNTS[job.form] // 3))), "every item has run"
    if job.form == "map":
        assert max(found.values()) <= 1 + kills, f"an item was repeated more often than it was killed: {found}"
    return Killed(kills, hits, dict(found))
