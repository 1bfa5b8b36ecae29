"""F1 for maps over generators: kill -9 while one goes on, and it is begun again from where its elements are stored."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.counted import Counted
from tests.faults.counting import executions as counted_executions
from tests.faults.graphs import GENERATOR_FORMS, Form, executions, items_of, starts_of
from tests.faults.harness import Job, looking_at
from tests.faults.invariants import check_run, event_log, indexes_of
from tests.servers import RealServer

SIDE_BY_SIDE = 2
#: Where one process after the other dies.
DEATHS = [
    ("map.opened@1", "source.running@16"),
    ("commit.after_reply@5", "commit.acknowledged@3", "source.running@2"),
]
COMMIT_PLACES = ("commit.before_send", "commit.after_reply", "commit.acknowledged")


def die_and_finish(server: RealServer, folder: Path, form: Form, deaths: tuple[str, ...], number: int) -> Job:
    run_id = f"{folder.name}-{form}-{number}"
    job = Job(server.url, run_id, form, folder / f"{run_id}.log", delay=0.01)
    died = [job.start(f"{place}=kill").died() for place in deaths]
    assert any(died), f"{form} {deaths}: nothing was passed"
    if all(died):
        outcome = job.start().finish()
        assert outcome == job.right
    with looking_at(server.url) as client:
        check_run(client, run_id, form)
        told = [
            index
            for fields in event_log(client, run_id)
            if fields["event"] == "ItemsFinished"
            for index in indexes_of(fields["indexes"])
        ]
    assert sorted(told) == list(range(items_of(form))), "each index was recorded once"
    found = executions(job.log)
    assert set(found) == set(range(items_of(form)))
    assert max(found.values()) <= 1 + sum(died), found
    return job


@pytest.mark.parametrize("form", GENERATOR_FORMS)
def test_f1_generator_goes_on_from_its_stored_elements(
    form: Form, redis_server: RealServer, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        jobs = list(
            pool.map(
                lambda number: die_and_finish(redis_server, tmp_path, form, DEATHS[number], number),
                range(len(DEATHS)),
            )
        )

    if form == "seeking":
        for job in jobs:
            starts = [int(line.split()[0]) for line in starts_of(job.log).read_text().splitlines()]
            assert starts[0] == 0
            assert all(left <= right for left, right in pairwise(starts)), starts
        assert int(starts_of(jobs[1].log).read_text().splitlines()[-1].split()[0]) > 0, (
            "what is stored is left out"
        )


@pytest.mark.long
@pytest.mark.parametrize("form", GENERATOR_FORMS)
@pytest.mark.parametrize("place", [*COMMIT_PLACES, "source.running"])
def test_f1_generator_whose_process_dies_at_each_passage_of_a_place(
    form: Form, place: str, redis_server: RealServer, tmp_path: Path
) -> None:
    deaths = [(f"{place}@{turn}", f"{place}@{turn // 2 + 1}") for turn in range(1, 17)]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(
            pool.map(
                lambda number: die_and_finish(redis_server, tmp_path, form, deaths[number], number),
                range(len(deaths)),
            )
        )


@pytest.mark.parametrize(
    ("count", "kills"), [(6_000, 2), pytest.param(50_000, 8, marks=pytest.mark.long)], ids=["small", "large"]
)
@pytest.mark.parametrize("source", ["generator", "seeking"])
def test_f1_generator_killed_at_random_moments_yields_each_element_once(
    source: str, count: int, kills: int, redis_server: RealServer, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    numbers = random.Random(seed)
    job = Counted(redis_server.url, f"{tmp_path.name}-{source}", count, tmp_path / "log", source)

    with looking_at(job.url) as client:
        for moment in sorted(numbers.sample(range(1, count - 2_000), kills)):
            job.kill_after(client, moment)
        job.finish()
        recorded = client.hkeys(job.key("out"))

    assert sorted(map(int, recorded)) == list(range(count))
    found = counted_executions(job.log)
    assert set(found) == set(range(count))
    assert max(found.values()) <= 1 + kills
