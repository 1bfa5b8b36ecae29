"""Death at each commit point, at its first, second and last passage: started again, the run comes to its right end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.graphs import FORMS, Form, answer_of, executions, items_of
from tests.faults.harness import Job, looking_at, run_field
from tests.faults.invariants import check_run
from tests.servers import RealServer

#: Before anything of a commit is done, before it is sent, when it is stored but nobody has heard of it.
PLACES = ("commit.before", "commit.before_send", "commit.after_reply")
SIDE_BY_SIDE = 2


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the runs of one test live."""

    url: str
    folder: Path
    form: Form

    def job(self, name: str) -> Job:
        return Job(self.url, f"{self.folder.name}-{name}", self.form, self.folder / f"{name}.log")

    def count_commits(self) -> int:
        """Commits of a run that nothing disturbs."""
        job = self.job("undisturbed")
        job.start().finish()
        assert set(executions(job.log)) == set(range(items_of(self.form)))
        if self.form == "map":
            assert set(executions(job.log).values()) == {1}
        with looking_at(self.url) as client:
            check_run(client, job.run_id, self.form)
            return int((run_field(client, job.run_id, "op") or "").rpartition(".")[2])

    def die_at(self, failpoint: str) -> bool:
        """Kill the run there and finish it with a second process; False if it never passed that place."""
        job = self.job(failpoint.replace("@", "-"))
        if not job.start(f"{failpoint}=kill").died():
            return False
        outcome = job.start().finish()
        assert outcome == {"status": "complete", "error": None, "answer": answer_of(self.form)}, failpoint
        with looking_at(self.url) as client:
            check_run(client, job.run_id, self.form)
        found = executions(job.log)
        assert set(found) == set(range(items_of(self.form)))
        if self.form == "map":
            assert max(found.values()) <= 2, failpoint
        return True


@pytest.fixture(params=FORMS)
def bench(request: pytest.FixtureRequest, redis_server: RealServer, tmp_path: Path) -> Bench:
    return Bench(redis_server.url, tmp_path, request.param)


def test_run_whose_creator_died_before_it_knew_is_started_by_the_next(bench: Bench) -> None:
    assert bench.die_at("create.after_reply")


def test_run_that_dies_at_its_first_second_or_last_commit_comes_to_its_right_end(bench: Bench) -> None:
    commits = bench.count_commits()

    def die(turn: int, place: str) -> None:
        # Outcomes that arrive together share a commit, so a run may get along with fewer than the one before.
        turns = (1,) if turn == 1 else (2,) if turn == 2 else range(commits + 1, 2, -1)
        assert any(bench.die_at(f"{place}@{each}") for each in turns), f"{place} was never passed"

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(die, *zip(*((turn, place) for turn in (1, 2, -1) for place in PLACES), strict=True)))


@pytest.mark.long
def test_run_that_dies_at_any_commit_comes_to_its_right_end(bench: Bench) -> None:
    failpoints = [f"{place}@{turn}" for turn in range(1, bench.count_commits() + 1) for place in PLACES]

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        died = list(pool.map(bench.die_at, failpoints))

    print(f"{bench.form}: died at {sum(died)} of {len(died)} commit points, right each time")
    assert sum(died) > 0.8 * len(died)
