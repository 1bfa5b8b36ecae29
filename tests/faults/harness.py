"""Victim processes as the tests hold them, and a look into Redis past the software under test."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from graphflow.failpoints import ENVIRONMENT_VARIABLE
from tests import programs
from tests.faults.graphs import PAYLOAD, Form, answer_of, executions
from tests.helpers import wait_until
from tests.programs import ROOT

#: Seconds after which a run that should have ended counts as hanging.
PATIENCE_SECONDS = 60.0
#: What no process may say about itself.
COMPLAINTS = (
    "Traceback",
    "never retrieved",
    "was destroyed",
    "was never awaited",
    "ResourceWarning",
    PAYLOAD,
)


_started: list[Victim] = []


@dataclass(slots=True)
class Job:
    """One run of one form and everything that starts it again."""

    url: str
    run_id: str
    form: Form
    log: Path
    delay: float | None = None
    lease_seconds: float = 10.0
    #: Processes wait here for each other before they start the run.
    barrier: Path | None = None
    #: Every second item fails the first time it runs.
    fails_once: bool = False
    #: More options of each of its processes.
    options: tuple[str, ...] = ()

    def start(self, failpoints: str = "", *options: str) -> Victim:
        return Victim(self, failpoints, *options)

    @property
    def right(self) -> dict[str, Any]:
        """What a process that drove the run to its end prints."""
        return {"status": "complete", "error": None, "answer": answer_of(self.form)}


class Victim:
    """One process that drives the run of a job."""

    def __init__(self, job: Job, failpoints: str = "", *options: str) -> None:
        self.job = job
        words = ["-m", "tests.faults.victim"]
        words += [job.url, job.run_id, job.form, str(job.log), "--lease-seconds", str(job.lease_seconds)]
        if job.delay is not None:
            words += ["--delay", str(job.delay)]
        if job.barrier is not None:
            words += ["--barrier", str(job.barrier)]
        if job.fails_once:
            words += ["--fails-once"]
        words += [*job.options, *options]
        #: What it logged, as far as it was read: all of it once it has ended.
        self.errors = ""
        self.process = programs.start(
            words,
            cwd=ROOT,
            env=os.environ | {ENVIRONMENT_VARIABLE: failpoints},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Unbuffered: what `wait_begun` read ahead would be lost for the end.
            bufsize=0,
        )
        _started.append(self)

    def wait_begun(self) -> Victim:
        """Wait until the run may begin any moment."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != b"begun\n":
            self._end()
            raise AssertionError(f"the victim printed {line!r} at its start:\n{self.errors}")
        return self

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> bool:
        """SIGKILL; False if the process had ended before."""
        self.process.kill()
        self._end()
        return self.process.returncode == -signal.SIGKILL

    def finish(self) -> dict[str, Any]:
        """What the run came to, as the process printed it at its end."""
        code, outcome = self.ended()
        assert code == 0, f"the victim failed with {code}:\n{self.errors}"
        return outcome

    def ended(self) -> tuple[int, dict[str, Any]]:
        """Wait for the end: what the process exited with, and what the run came to if that is 0."""
        output = self._end()
        code = self.process.returncode
        outcome: dict[str, Any] = {}
        if code == 0:
            self.check_errors()
            outcome = json.loads(output.splitlines()[-1])
        return code, outcome

    def died(self) -> bool:
        """Wait for the end: whether it was a SIGKILL, by itself or by a failpoint."""
        self._end()
        self.check_errors()
        return self.process.returncode == -signal.SIGKILL

    def wait_said(self, text: str) -> None:
        """Wait until it has logged this."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.errors:
            readable, _, _ = select.select([self.process.stderr], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"the victim does not say {text!r}:\n{self.errors}"
            said = os.read(self.process.stderr.fileno(), 65536)
            assert said, f"the victim has ended and did not say {text!r}:\n{self.errors}"
            self.errors += said.decode()

    def wait_stopped(self) -> Victim:
        """Wait until the process has stopped itself at a failpoint."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        wait_until(
            lambda: stat.read_text().rpartition(") ")[2].startswith("T"),
            timeout_seconds=PATIENCE_SECONDS,
            what="a stop",
        )
        return self

    def check_errors(self) -> None:
        """I8: what it has said."""
        for complaint in COMPLAINTS:
            assert complaint not in self.errors, self.errors

    def _end(self) -> str:
        """Wait for the process; what it printed."""
        try:
            output, errors = self.process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, errors = self.process.communicate()
            raise AssertionError(f"the victim does not end:\n{errors.decode()}") from None
        self.errors += errors.decode()
        return output.decode()


def end_all_victims() -> None:
    """Kill and reap what was started since the last call."""
    while _started:
        victim = _started.pop()
        victim.process.kill()
        if victim.process.stdout is not None and not victim.process.stdout.closed:
            victim.process.communicate(timeout=PATIENCE_SECONDS)


@contextmanager
def looking_at(url: str) -> Iterator[redis.Redis]:
    """A plain client of the server, with nothing of graphflow between."""
    client = redis.Redis.from_url(url, decode_responses=True)
    try:
        yield client
    finally:
        client.close()


def run_field(client: redis.Redis, run_id: str, field: str) -> str | None:
    value = client.hget(f"gf:run:{{{run_id}}}", field)
    assert value is None or isinstance(value, str)
    return value


def wait_disconnected(client: redis.Redis, pids: Iterable[int]) -> None:
    """Wait until no connection of these processes is left: they are named `graphflow:ROLE:HOST:PID`."""
    ends = tuple(f":{pid}" for pid in pids)
    wait_until(
        lambda: not [each["name"] for each in client.client_list() if each["name"].endswith(ends)],
        what="the end of every connection",
    )


def wait_bodies_begun(log: Path, count: int) -> None:
    """Wait until at least `count` bodies have begun over the run's whole life."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while executions(log).total() < count:
        assert time.monotonic() < deadline, f"fewer than {count} bodies begun in {PATIENCE_SECONDS} s"
        time.sleep(0.003)
