"""kill -9 in the middle of a large map: only items without a record run again, counted outside Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.counted import Counted
from tests.faults.counting import executions
from tests.faults.harness import looking_at
from tests.servers import RealServer


@pytest.mark.parametrize(
    ("count", "kills"),
    [(10_000, 1), pytest.param(100_000, 3, marks=pytest.mark.long)],
    ids=["ten thousand", "hundred thousand"],
)
@pytest.mark.parametrize("source", ["list", pytest.param("seeking", marks=pytest.mark.long)])
def test_resumed_map_runs_only_items_without_a_record(
    source: str, count: int, kills: int, redis_server: RealServer, tmp_path: Path
) -> None:
    job = Counted(redis_server.url, f"{tmp_path.name}-{source}", count, tmp_path / "log", source)
    recorded: set[int] = set()
    repeated = 0

    with looking_at(job.url) as client:
        for kill in range(1, kills + 1):
            before, recorded = recorded, job.kill_after(client, count * kill // (kills + 1))
            executed = _executed_since(job, before)
            assert recorded - before <= executed
            repeated += len(executed - recorded)
            print(f"kill {kill}: {len(recorded)} with a record, {len(executed - recorded)} executed without")
        job.finish()
        assert _executed_since(job, recorded) == set(range(count)) - recorded
        assert client.hlen(job.key("out")) == count

    assert repeated < count / 10, "most of the work is kept"


def _executed_since(job: Counted, recorded: set[int]) -> set[int]:
    """What ran in one process, which ran nothing twice and nothing that had its record; the log begins anew."""
    found = executions(job.log)
    job.log.write_bytes(b"")
    assert set(found.values()) <= {1}
    assert not recorded & set(found)
    return set(found)
