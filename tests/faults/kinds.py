"""The kinds of run that chaos befalls; each knows its own right end.

What F32 (an item that kills its process), F33 (a run that is cancelled) and F34 (calls that are cut short) do to a run is
in its processes' options; any other fault may come on top.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from tests.faults.graphs import AGGREGATES, CHUNK_SIZE, MAPS, NODES, Form, answer_of, items_of
from tests.faults.harness import Job, run_field
from tests.faults.invariants import check_over, check_run, event_log
from tests.faults.victim import STORM_CALLS, STORM_ROUNDS

Outcome = dict[str, Any]
#: Deaths after which a usual item or node would have failed: more than a run meets here.
MANY_CRASHES = 50
#: Those of a poisonous item; with so few slots it is soon alone, so that no other one comes near the limit.
POISON_CRASHES = 8
POISON_SLOTS = 2


@dataclass(frozen=True, slots=True)
class Kind:
    """A run that completes."""

    name: str
    form: Form
    #: So long that a run is mostly still under way when the last fault comes.
    item_seconds: float = 0.3
    #: Faults of the table that are not drawn for it.
    without: frozenset[str] = frozenset()
    is_poisoned: bool = False
    is_cancelled: bool = False
    #: Calls of each process that may take the run and give it back at once.
    calls_cut_short: int = 0

    def options(self, numbers: random.Random) -> tuple[str, ...]:
        """What each process of one run is started with."""
        return ("--max-crashes", str(MANY_CRASHES))

    def check(self, client: redis.Redis, job: Job, outcomes: Sequence[Outcome]) -> None:
        """What the processes say that saw the end, and what is stored."""
        for outcome in outcomes:
            assert outcome == job.right
        check_run(client, job.run_id, self.form)


class Stormy(Kind):
    """F34: the first calls of each process are cut short."""

    def options(self, numbers: random.Random) -> tuple[str, ...]:
        return (*Kind.options(self, numbers), "--storm", str(numbers.randrange(1 << 32)))


class Poisoned(Kind):
    """F32: one item kills its process each time; it is the only one that fails."""

    def options(self, numbers: random.Random) -> tuple[str, ...]:
        poison = numbers.randrange(items_of(self.form))
        limits = ("--max-crashes", str(POISON_CRASHES), "--slots", str(POISON_SLOTS))
        return (*limits, "--poison", str(poison))

    def check(self, client: redis.Redis, job: Job, outcomes: Sequence[Outcome]) -> None:
        poison = int(job.options[-1])
        right = answer_of(self.form)
        del right[poison * CHUNK_SIZE : (poison + 1) * CHUNK_SIZE]
        for outcome in outcomes:
            assert (outcome["status"], outcome["answer"]) == ("partial", right), outcome
        check_over(client, job.run_id, NODES[self.form], MAPS[self.form], status="partial")
        run = f"gf:run:{{{job.run_id}}}"
        aggregator, key = AGGREGATES[self.form]
        assert json.loads(client.hget(f"{run}:state", key)) == right
        assert client.hkeys(f"{run}:map:double:failed") == [str(poison)]
        assert client.hget(f"{run}:map:double", "retried") in (None, "0"), "no death is an attempt"
        events = event_log(client, job.run_id)
        kinds = [fields["event"] for fields in events]
        assert kinds.count("ItemFailed") == 1
        assert not {"RetryScheduled", "NodeFailed"} & set(kinds)
        succeeded = [fields["node"] for fields in events if fields["event"] == "NodeSucceeded"]
        assert succeeded.count(aggregator) == 1, "the aggregate was committed once"


class Cancelled(Kind):
    """F33: another process asks for its end, and once more when it is over. It may have been over before."""

    def check(self, client: redis.Redis, job: Job, outcomes: Sequence[Outcome]) -> None:
        status = run_field(client, job.run_id, "status")
        assert {outcome["status"] for outcome in outcomes} == {status}
        if status == "complete":
            check_run(client, job.run_id, self.form)
            return
        assert status == "cancelled"
        is_opened = client.exists(f"gf:run:{{{job.run_id}}}:map:double")
        maps = MAPS[self.form] if is_opened else ()
        check_over(client, job.run_id, NODES[self.form], maps, status="cancelled")


#: A request that the store has forgotten may rightly be without effect.
_NO_LOSS = frozenset({"F9 lost tail", "F10 lost data"})
KINDS: tuple[Kind, ...] = (
    Kind("naive", "naive"),
    Kind("map", "map"),
    Kind("map whose items count in one key", "counting", 0.05),
    Stormy("F34 naive under a cancel storm", "naive", calls_cut_short=STORM_ROUNDS * STORM_CALLS),
    Stormy("F34 map under a cancel storm", "map", calls_cut_short=STORM_ROUNDS * STORM_CALLS),
    Poisoned("F32 map with a poisonous item", "map", 0.1, is_poisoned=True),
    Cancelled("F33 cancelled naive", "naive", without=_NO_LOSS, is_cancelled=True),
    Cancelled("F33 cancelled map", "map", without=_NO_LOSS, is_cancelled=True),
)
