"""One run that faults befall at random: a server, a network and two processes of its own, and how all of it is judged.

What can befall it is in `strikes.py`, what its right end is in `kinds.py`.
"""

from __future__ import annotations

import random
import signal
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import redis

from tests.faults.graphs import POISONED, executions, items_of
from tests.faults.harness import Job, Victim, looking_at, run_field, wait_disconnected
from tests.faults.kinds import Kind
from tests.faults.proxy import ProxyBeside
from tests.servers import LoggedServer

LEASE_SECONDS = 0.5
#: Seconds after which a process gives a connection up that does not answer.
REPLY_SECONDS = 1.0
#: How often one process' command is given again, at most.
MOST_STARTS = 40


class Chaos:
    """One run of a kind, as long as the block lasts; the strikes use what it holds."""

    def __init__(self, kind: Kind, run_id: str, folder: Path, numbers: random.Random) -> None:
        self.kind = kind
        self.numbers = numbers
        self.appendfsync = numbers.choice(("always", "everysec"))
        self.server = LoggedServer(appendfsync=self.appendfsync)
        self.beside = ProxyBeside(str(self.server.socket_path))
        self.proxy = self.beside.proxy
        self.job = Job(
            url="",
            run_id=run_id,
            form=kind.form,
            log=folder / f"{run_id}.log",
            delay=kind.item_seconds,
            lease_seconds=LEASE_SECONDS,
            options=("--reply-seconds", str(REPLY_SECONDS), *kind.options(numbers)),
        )
        #: Processes that drive the run, or wait for the other; and those that end it.
        self.victims: list[Victim] = []
        self.cancellers: list[Victim] = []
        self.story: list[str] = []
        #: Times that the store has forgotten something of the run: it may be gone then.
        self.losses = 0
        self._forgotten_leases = 0
        self._deaths = 0
        self._started: list[Victim] = []
        self._stack = ExitStack()

    def __enter__(self) -> Chaos:
        self._stack.enter_context(self.server)
        self._stack.enter_context(self.beside)
        self.job.url = self.proxy.url
        self.victims = [self.start(), self.start()]
        for victim in self.victims:
            victim.wait_begun()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # For the strikes

    def start(self, failpoints: str = "", *options: str) -> Victim:
        victim = self.job.start(failpoints, *options)
        self._started.append(victim)
        return victim

    def wait(self, most: float) -> None:
        time.sleep(self.numbers.uniform(0, most))

    def happens(self) -> bool:
        return self.numbers.random() < 0.5

    def place(self) -> int:
        """Of one of the victims."""
        return self.numbers.randrange(len(self.victims))

    def driver(self) -> int:
        """Of the victim that holds the run's lease, or of any if none does."""
        with self.looking() as client:
            owner = str(client.hget(f"gf:run:{{{self.job.run_id}}}:lease", "owner"))
        pids = [str(victim.process.pid) for victim in self.victims]
        return next((place for place, pid in enumerate(pids) if pid in owner.split(":")), self.place())

    def looking(self) -> AbstractContextManager[redis.Redis]:
        """Past the network."""
        return looking_at(self.server.url)

    def is_under_way(self) -> bool:
        with self.looking() as client:
            return run_field(client, self.job.run_id, "status") == "executing"

    def start_again_who_died(self) -> None:
        """By what it met: a poisonous item, or a failpoint."""
        for place, victim in enumerate(self.victims):
            if victim.process.poll():
                victim.ended()
                self.check_death(victim)
                self.victims[place] = self.start().wait_begun()

    def check_death(self, victim: Victim) -> None:
        self._deaths += 1
        allowed = {-signal.SIGKILL, POISONED} if self.kind.is_poisoned else {-signal.SIGKILL}
        code = victim.process.returncode
        assert code in allowed, f"a process failed with {code}:\n{victim.errors}"
        victim.check_errors()

    def about_to_lose(self) -> None:
        """The store is about to forget some of what it holds, or all of it."""
        self.losses += 1
        with self.looking() as client:
            self._forgotten_leases += _leases(client, self.job)

    @property
    def said(self) -> str:
        """What the processes have logged that were waited for, one after the other."""
        return "\n".join(f"{victim.process.pid}:\n{victim.errors}" for victim in self._started)

    # The end

    def finish(self) -> str:
        """Wait for the processes, and check what they say and what is stored. The run's status."""
        outcomes = [self._outcome(victim) for victim in self.victims]
        if self.losses:
            # What these saw may be forgotten again; that is no wrong, so somebody asks after the last loss.
            outcomes = [self._outcome(self.start())]
        if self.kind.is_cancelled:
            # The second time it is over.
            outcomes += [self._outcome(victim, "--cancel") for victim in self.cancellers]
            outcomes += [self._outcome(self.start("", "--cancel"), "--cancel"), self._outcome(self.start())]
        with self.looking() as client:
            self.kind.check(client, self.job, outcomes)
            self._check_executions(client)
            wait_disconnected(client, [victim.process.pid for victim in self._started])
        return str(outcomes[0]["status"])

    def _outcome(self, victim: Victim, *options: str) -> dict[str, Any]:
        """What a process says of the run; if it died, or does not know, the same command is given again."""
        for _ in range(MOST_STARTS):
            code, outcome = victim.ended()
            if code:
                self.check_death(victim)
            elif self._says_something(outcome, may_come_early=bool(options)):
                return outcome
            victim = self.start("", *options)
        raise AssertionError(f"the run does not come to its end in {MOST_STARTS} starts")

    def _says_something(self, outcome: dict[str, Any], *, may_come_early: bool) -> bool:
        """Who finds no server at its very start says only that; who finds no run may have come early, or after a loss."""
        if outcome["status"] == "lost":
            assert self.losses or may_come_early, "a run is lost that nobody took away"
        return outcome["status"] not in ("lost", "unreachable")

    def _check_executions(self, client: redis.Redis) -> None:
        """I3: each item has run, in a map at most once for each process that has held the run."""
        found = executions(self.job.log)
        everything = set(range(items_of(self.kind.form)))
        assert set(found) == everything or (self.kind.is_cancelled and set(found) < everything), found
        leases = self._forgotten_leases + _leases(client, self.job)
        # A fault takes the run from its process; when it is over, the process may take it back.
        by_faults = 2 + 2 * len(self.story) + self._deaths
        by_choice = len(self._started) * self.kind.calls_cut_short
        # What the store still knew after a loss is counted once more.
        assert leases <= (by_faults + by_choice) * (1 + self.losses), leases
        if self.kind.form == "map":
            assert max(found.values(), default=0) <= leases, (leases, found)


def _leases(client: redis.Redis, job: Job) -> int:
    """How often the run was taken to be driven, as far as the store knows."""
    return int(run_field(client, job.run_id, "leases") or 0)
