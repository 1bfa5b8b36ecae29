"""`graphflow demo`: the promise to try at home. Kill it in the middle, go on, and count."""

from __future__ import annotations

import re
from pathlib import Path

from graphflow.cli.demo import ITEMS
from tests.acceptance.command_line import graphflow, run_id_of, started, wait_for_field


def test_a_killed_demo_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with started(tmp_path, "demo", "--id", "demo-once", is_forked=False) as process:
        wait_for_field(tmp_path, "gf:run:{demo-once}:map:square", "done", at_least=100)
        process.kill()

    resumed = graphflow(tmp_path, "demo", "--id", "demo-once")

    assert resumed.returncode == 0, resumed.stderr
    here, recorded = _counts(resumed.stdout)
    assert here + recorded == ITEMS
    assert recorded >= 100
    assert here > 0
    assert "sum      9,045,050, as it must be" in resumed.stdout

    again = graphflow(tmp_path, "demo", "--id", "demo-once")

    assert _counts(again.stdout) == (0, ITEMS)


def test_the_demo_prints_its_id_and_the_command_that_looks_at_it_first(tmp_path: Path) -> None:
    with started(tmp_path, "demo", is_forked=False) as process:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        process.kill()

    run_id = run_id_of(first)
    assert re.fullmatch(r"demo-[0-9a-z]{4}-[0-9a-z]{4}", run_id)
    assert second == f"look at it: redis-cli -s .graphflow/redis.sock hgetall 'gf:run:{{{run_id}}}'\n"


def _counts(output: str) -> tuple[int, int]:
    """Items that ran in this process, and items that were recorded before."""
    found = re.search(r"items +300: (\d+) ran in this process, (\d+) were already recorded", output)
    assert found is not None, output
    return int(found[1]), int(found[2])
