"""F9: the end of Redis' log is lost. What is left is whole, the run goes on from there, and who remembers more is not
believed, not even if the store has come to the same revision by another way."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from tests.faults.graphs import FORMS, Form, executions, items_of
from tests.faults.harness import Job, Victim, looking_at, run_field, wait_bodies_begun
from tests.faults.invariants import check_run, event_log
from tests.helpers import wait_until
from tests.servers import ENGINES, Engine, LoggedServer


@pytest.fixture
def server() -> Iterator[LoggedServer]:
    with LoggedServer() as server:
        yield server


# The store has come to the same revision by another way


def test_f9_commit_upon_a_revision_that_only_looks_right_is_refused(
    server: LoggedServer, tmp_path: Path
) -> None:
    job = Job(server.url, tmp_path.name, "map", tmp_path / "bodies.log", delay=0.1)
    first = job.start("create.after_reply=stop;commit.before_send@5=stop", "--order", "forwards")
    first.wait_stopped()
    earlier = server.log_file.read_bytes()
    first.send(signal.SIGCONT)
    wait_bodies_begun(job.log, 4)
    first.wait_stopped()
    with looking_at(job.url) as client:
        revision, results = run_field(client, job.run_id, "revision"), results_of(client, job)
    assert results, "it has stored results and is about to store more"

    server.restart_with(earlier)
    second = job.start("commit.before_send@*=stop", "--order", "backwards")
    with looking_at(job.url) as client:
        wait_revision(client, second, job, revision)
        other_results = results_of(client, job)
        assert other_results
        assert other_results.keys() != results.keys(), "the same revision, with other content"

        first.send(signal.SIGCONT)
        first.wait_said("its lease was taken")

        assert run_field(client, job.run_id, "revision") == revision
        assert results_of(client, job) == other_results
        let_go(second)
        assert [victim.finish() for victim in (first, second)] == [job.right, job.right]
        check_run(client, job.run_id, "map")
        events = event_log(client, job.run_id)
        tokens = {fields["token"] for fields in events if fields["event"] == "ItemsFinished"}
        assert len(tokens) == 1, "all results are of the second process"
        assert run_field(client, job.run_id, "leases") == "1"


def wait_revision(client: redis.Redis, victim: Victim, job: Job, revision: str | None) -> None:
    """Let the process go on from commit to commit until the run has this revision."""
    while True:
        victim.wait_stopped()
        now = run_field(client, job.run_id, "revision")
        if now == revision:
            return
        assert int(now or 0) < int(revision or 0), "the revision was passed over"
        victim.send(signal.SIGCONT)


def let_go(victim: Victim) -> None:
    """Let a process that stops at each commit go on to its end."""

    def has_ended() -> bool:
        victim.send(signal.SIGCONT)
        return victim.process.poll() is not None

    wait_until(has_ended, timeout_seconds=30, what="the end of the process")


def results_of(client: redis.Redis, job: Job) -> dict[str, str]:
    return client.hgetall(f"gf:run:{{{job.run_id}}}:map:double:out")


# An older log, under a process that lives


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.0, 0.25, 0.6])
def test_f9_run_goes_on_from_an_older_log(
    share: float, form: Form, server: LoggedServer, tmp_path: Path
) -> None:
    job = Job(server.url, tmp_path.name, form, tmp_path / "bodies.log")
    victim = job.start()
    wait_bodies_begun(job.log, 1 + int(items_of(form) * share))
    earlier = server.log_file.read_bytes()
    wait_bodies_begun(job.log, items_of(form) * 3 // 4)

    server.restart_with(earlier)

    assert victim.finish() == job.right
    with looking_at(job.url) as client:
        check_run(client, job.run_id, form)
    if form == "map":
        assert max(executions(job.log).values()) <= 2, "what was lost is repeated once"


# A log that ends within a script


@dataclass(frozen=True, slots=True)
class Tail:
    """A log whose last script began at byte `start`."""

    log: bytes
    start: int

    def cuts(self, step: int) -> list[int]:
        """Where to cut so that something of the script is left, and something missing."""
        return [*range(self.start + 1, len(self.log) - 1, step), len(self.log) - 1]

    @property
    def half(self) -> bytes:
        return self.log[: (self.start + len(self.log)) // 2]


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("place", "form"),
    [
        ("create.after_reply@1", "map"),
        ("commit.after_reply@2", "naive"),
        ("commit.after_reply@3", "map"),
        ("run.ended@1", "map"),
    ],
    ids=["creation", "fan-out", "opening-of-a-map", "end"],
)
def test_f9_log_cut_at_any_byte_of_its_last_script_holds_nothing_of_it_and_the_run_goes_on(
    place: str, form: Form, step: int, server: LoggedServer, tmp_path: Path
) -> None:
    job = Job(server.url, tmp_path.name, form, tmp_path / "bodies.log")
    assert job.start(f"{place}=kill").died()
    tail = tail_of(server)

    with looking_at(server.url) as client:
        whole = content_of(client, server, tail.log)
        before = content_of(client, server, tail.log[: tail.start])
        torn = [cut for cut in tail.cuts(step) if content_of(client, server, tail.log[:cut]) != before]
    assert whole != before
    assert not torn, f"bytes {torn} of {tail.start} to {len(tail.log)}"

    server.restart_with(tail.half)
    assert job.start().finish() == job.right
    with looking_at(job.url) as client:
        check_run(client, job.run_id, form)


@pytest.mark.parametrize("engine", ENGINES)
def test_f9_process_that_lives_goes_on_when_its_last_script_is_cut(engine: Engine, tmp_path: Path) -> None:
    with LoggedServer(engine) as server:
        job = Job(server.url, tmp_path.name, "map", tmp_path / "bodies.log")
        victim = job.start("commit.after_reply@6=stop").wait_stopped()
        tail = tail_of(server)
        server.restart_with(tail.half)

        victim.send(signal.SIGCONT)

        assert victim.finish() == job.right
        assert "went back" in victim.errors or "revision" in victim.errors, victim.errors
        with looking_at(job.url) as client:
            check_run(client, job.run_id, "map")
        assert max(executions(job.log).values()) <= 2


def content_of(client: redis.Redis, server: LoggedServer, log: bytes) -> str:
    """A digest of all that the server holds when it has read this log, as it does at its start."""
    server.log_file.write_bytes(log)
    # It answers with an error when it has cut off a torn end, as it does at its start without a word.
    with suppress(redis.ResponseError):
        client.execute_command("DEBUG", "LOADAOF")
    return str(client.execute_command("DEBUG", "DIGEST"))


def tail_of(server: LoggedServer) -> Tail:
    """The log with the place where the transaction begins that the last script was written as."""
    log = server.log_file.read_bytes()
    start, position, last = 0, 0, b""
    while position < len(log):
        begin = position
        position, last = _command(log, position)
        if last == b"MULTI":
            start = begin
    assert last == b"EXEC", "the log ends with a script"
    return Tail(log, start)


def _command(log: bytes, position: int) -> tuple[int, bytes]:
    """Where the command at this position ends, and its name."""
    end = log.index(b"\r\n", position)
    words: list[bytes] = []
    for _ in range(int(log[position + 1 : end])):
        head = end + 2
        end = log.index(b"\r\n", head)
        length = int(log[head + 1 : end])
        words.append(log[end + 2 : end + 2 + length])
        end += 2 + length
    return end + 2, words[0].upper()


def test_commands_of_a_log_are_found() -> None:
    log = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*1\r\n$5\r\nMULTI\r\n"

    position, name = _command(log, 0)

    assert (name, _command(log, position)) == (b"SELECT", (len(log), b"MULTI"))
