"""Everything at once, drawn by a seed: two processes drive each run while processes and the server die, stop and
forget (F1-F5, F7, F11, F16, F17).

`GRAPHFLOW_SEED` repeats what a seed has drawn, as far as the moments of the machine allow.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.graphs import FORMS, executions, items_of
from tests.faults.harness import Job, Victim, looking_at
from tests.faults.invariants import check_run
from tests.servers import RealServer

SEED_VARIABLE = "GRAPHFLOW_SEED"
FAULTS_PER_RUN = 4
LEASE_SECONDS = 0.4


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with RealServer(appendfsync="always") as server:
        yield server


class Chaos:
    """One run with its two processes, and the faults that may befall them."""

    def __init__(self, job: Job, server: RealServer, numbers: random.Random) -> None:
        self.job = job
        self.server = server
        self.numbers = numbers
        self.victims = [job.start().wait_begun() for _ in range(2)]
        self.story: list[str] = []

    def strike(self) -> None:
        time.sleep(self.numbers.uniform(0, 0.25))
        fault = self.numbers.choice(
            [self.kill, self.kill_both, self.stop, self.crash_server, self.forget_scripts, self.drop]
        )
        self.story.append(fault.__name__)
        fault()

    def kill(self) -> None:
        place = self.numbers.randrange(2)
        self.victims[place].kill()
        self.victims[place] = self.job.start().wait_begun()

    def kill_both(self) -> None:
        for victim in self.victims:
            victim.kill()
        self.victims = [self.job.start() for _ in self.victims]
        for victim in self.victims:
            victim.wait_begun()

    def stop(self) -> None:
        victim = self.numbers.choice(self.victims)
        victim.send(signal.SIGSTOP)
        time.sleep(self.numbers.uniform(0, 2 * LEASE_SECONDS))
        victim.send(signal.SIGCONT)

    def crash_server(self) -> None:
        self.server.kill()
        time.sleep(self.numbers.uniform(0, 0.2))
        self.server.start()

    def forget_scripts(self) -> None:
        with looking_at(self.job.url) as client:
            client.script_flush()

    def drop(self) -> None:
        with looking_at(self.job.url) as client:
            client.client_kill_filter(_type="normal", skipme=True)

    def finish(self) -> None:
        for victim in self.victims:
            assert self._outcome(victim) == self.job.right, self.story
        with looking_at(self.job.url) as client:
            check_run(client, self.job.run_id, self.job.form)
        found = executions(self.job.log)
        assert set(found) == set(range(items_of(self.job.form)))
        if self.job.form == "map":
            # A stopped process that wakes may have items in flight which the other has begun, too.
            assert max(found.values()) <= 1 + 2 * FAULTS_PER_RUN, (self.story, found)

    def _outcome(self, victim: Victim) -> dict[str, object]:
        """Who finds no server at its very start says so and ends; the same command is given again."""
        try:
            return victim.finish()
        except AssertionError:
            if victim.process.returncode != 1 or "cannot reach Redis" not in victim.errors:
                raise
            return self.job.start().finish()


@pytest.mark.parametrize("seconds", [25, pytest.param(20 * 60, marks=pytest.mark.long)])
def test_runs_come_to_their_right_end_through_faults_of_all_kinds(
    seconds: float, server: RealServer, tmp_path: Path
) -> None:
    seed = int(os.environ.get(SEED_VARIABLE) or random.randrange(1 << 32))
    print(f"{SEED_VARIABLE}={seed}")
    numbers = random.Random(seed)
    end = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < end:
        form = FORMS[runs % len(FORMS)]
        run_id, log = f"soak-{tmp_path.name}-{runs}", tmp_path / f"{runs}.log"
        chaos = Chaos(Job(server.url, run_id, form, log, lease_seconds=LEASE_SECONDS), server, numbers)
        for _ in range(FAULTS_PER_RUN):
            chaos.strike()
        chaos.finish()
        print(f"{form}: {' '.join(chaos.story)}")
        runs += 1
    print(f"{runs} of {runs} right, {runs * FAULTS_PER_RUN} faults")
