"""F15: a network that is slow, uneven, or delivers byte by byte: runs are slower by the round trips, nothing else."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.faults.graphs import AGGREGATES, FORMS, Form, agent_of, answer_of, executions, task_of
from tests.faults.harness import looking_at
from tests.faults.invariants import check_run
from tests.faults.proxy import ChaosProxy
from tests.helpers import run
from tests.servers import RealServer

#: Round trips that a run of each form may take, its opening and closing included.
ROUND_TRIPS: dict[Form, int] = {"naive": 90, "map": 60}


async def drive(server: RealServer, run_id: str, log: Path, form: Form, proxy: ChaosProxy) -> float:
    """How many seconds the run takes over the network that the proxy is."""
    async with proxy:
        began = time.monotonic()
        outcome = await agent_of(form, proxy.url, log, lease_seconds=10).run_task(
            task_of(form), run_id=run_id
        )
        took = time.monotonic() - began
    assert outcome[AGGREGATES[form][1]] == answer_of(form)
    with looking_at(server.url) as client:
        check_run(client, run_id, form)
    if form == "map":
        assert set(executions(log).values()) == {1}
    return took


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "milliseconds",
    [50, pytest.param(200, marks=pytest.mark.long), pytest.param(1000, marks=pytest.mark.long)],
)
def test_run_over_a_slow_network_takes_its_round_trips_and_no_more(
    milliseconds: int, form: Form, redis_server: RealServer, tmp_path: Path
) -> None:
    numbers = random.Random(milliseconds)
    proxy = ChaosProxy(str(redis_server.socket_path))
    at_once = run(drive(redis_server, f"{tmp_path.name}-at-once", tmp_path / "at-once.log", form, proxy))
    proxy.latency = lambda: milliseconds / 1000 * numbers.uniform(0.5, 1.5)

    took = run(drive(redis_server, tmp_path.name, tmp_path / "bodies.log", form, proxy))

    assert took < ROUND_TRIPS[form] * milliseconds / 1000 + 3 + 2 * at_once


@pytest.mark.parametrize("form", FORMS)
def test_run_over_a_network_that_delivers_byte_by_byte(
    form: Form, redis_server: RealServer, tmp_path: Path
) -> None:
    proxy = ChaosProxy(str(redis_server.socket_path), piece_bytes=1)

    run(drive(redis_server, tmp_path.name, tmp_path / "bodies.log", form, proxy))
