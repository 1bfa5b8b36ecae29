"""What must hold of a run that is over, whatever was killed, cut or stopped on its way. Reads Redis directly.

    I1  each item has one result, the right one, told of once by a holder of the lease
    I2  the aggregate is right, and was committed once
    I4  the run is over, as it should be
    I5  nothing is left behind in Redis
    I7  no fault of processes or connections has used up an attempt
    I9  the events are a path that the rules allow

I3 needs the log of executions and I8 what the processes have said: the tests and `harness.Victim` look at these. I6 is
`harness.PATIENCE_SECONDS`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import redis

from tests.faults.graphs import AGGREGATES, COUNTED, MAPS, NODES, Form, answer_of, items_of

FINAL = {"complete", "partial", "failed", "cancelled"}
_RUN_KEYS = ("", ":task", ":plan", ":initial", ":state", ":revisions", ":nodes", ":events")
_MAP_KEYS = ("", ":in", ":out", ":failed", ":pages")


def check_run(client: redis.Redis, run_id: str, form: Form, *, fails_once: bool = False) -> None:
    """A run of one of the graphs that came to its right end; `fails_once` if its bodies do."""
    run = f"gf:run:{{{run_id}}}"
    check_over(client, run_id, NODES[form], MAPS[form], status="complete")
    aggregator, key = AGGREGATES[form]
    assert json.loads(client.hget(f"{run}:state", key)) == answer_of(form)
    if form == "counting":
        assert json.loads(client.hget(f"{run}:state", COUNTED)) == items_of(form), "an update was lost"
    events = event_log(client, run_id)
    succeeded = [fields["node"] for fields in events if fields["event"] == "NodeSucceeded"]
    assert succeeded.count(aggregator) == 1, "the aggregate was committed once"
    assert client.hget(f"{run}:node:{aggregator}", "visits") == "1"
    for name in MAPS[form]:
        _check_results(client, run, name)
    if not fails_once:
        _check_attempts(client, run, form, {fields["event"] for fields in events})


def check_over(
    client: redis.Redis, run_id: str, nodes: Iterable[str], maps: Iterable[str], *, status: str
) -> None:
    """The run is over, leaves nothing behind that it should not, and tells a story that can have happened."""
    run = f"gf:run:{{{run_id}}}"
    fields = client.hgetall(run)
    assert fields["status"] == status, fields
    assert status in FINAL
    assert "finished" in fields, fields
    assert "owner" not in fields, "who is done with a run does not own it"
    _check_keys(client, run, nodes, maps)
    assert client.zscore("gf:runs", run_id) is not None
    assert client.zscore("gf:runs:open", run_id) is None, "a run that is over is in the index of open runs"
    events = event_log(client, run_id)
    check_story(events, status, int(fields["revision"]))
    for name in maps:
        _check_map(
            client, run, name, events, leases=int(fields["leases"]), is_cut_short=status == "cancelled"
        )


def _check_keys(client: redis.Redis, run: str, nodes: Iterable[str], maps: Iterable[str]) -> None:
    allowed = {run + suffix for suffix in _RUN_KEYS}
    allowed |= {f"{run}:node:{name}" for name in nodes}
    allowed |= {f"{run}:map:{name}{suffix}" for name in maps for suffix in _MAP_KEYS}
    # The pattern's braces are plain characters to Redis.
    found = set(client.scan_iter(match=f"{run}*", count=1000))
    assert found <= allowed, f"left behind: {sorted(found - allowed)}"


def _check_results(client: redis.Redis, run: str, name: str) -> None:
    items, results = (client.hgetall(f"{run}:map:{name}:{part}") for part in ("in", "out"))
    doubled = {index: [number * 2 for number in json.loads(text)] for index, text in items.items()}
    assert {index: json.loads(text) for index, text in results.items()} == doubled


def _check_attempts(client: redis.Redis, run: str, form: Form, kinds: set[str]) -> None:
    """Where no body fails, each module has had one attempt in its last visit and no item a second one."""
    assert not kinds & {"RetryScheduled", "NodeFailed", "ItemFailed"}, kinds
    for name in NODES[form]:
        attempts = client.hget(f"{run}:node:{name}", "attempts:0")
        assert attempts in (None, "0", "1"), f"{name} has had {attempts} attempts"
    for name in MAPS[form]:
        assert client.hget(f"{run}:map:{name}", "retried") in (None, "0")


def _check_map(
    client: redis.Redis,
    run: str,
    name: str,
    events: list[dict[str, str]],
    *,
    leases: int,
    is_cut_short: bool,
) -> None:
    """Each item has exactly one record, or at most one if the run was cut short, and one event that tells of it."""
    counters = client.hgetall(f"{run}:map:{name}")
    items, done, failed = (
        set(map(int, client.hkeys(f"{run}:map:{name}:{part}"))) for part in ("in", "out", "failed")
    )
    assert int(counters["total"]) == len(items), counters
    assert int(counters["done"]) == len(done), counters
    assert int(counters["failed"]) == len(failed), counters
    assert done | failed <= items
    assert is_cut_short or done | failed == items
    assert not done & failed
    told: list[int] = []
    holder = 1
    for fields in events:
        if fields["event"] == "ItemsFinished" and (fields["node"], fields["visit"]) == (
            name,
            counters["visit"],
        ):
            indexes = indexes_of(fields["indexes"])
            assert len(indexes) == int(fields["count"])
            number, _, nonce = fields["token"].partition("-")
            assert holder <= int(number) <= leases, "an old holder's commit was taken after a new one's"
            assert nonce
            holder = int(number)
            told += indexes
    assert sorted(told) == sorted(done), "each result was told of once"


def event_log(client: redis.Redis, run_id: str) -> list[dict[str, str]]:
    return [fields for _, fields in client.xrange(f"gf:run:{{{run_id}}}:events")]


def indexes_of(text: str) -> list[int]:
    """The indexes of `0-2 5`."""
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


@dataclass(slots=True)
class _NodeStory:
    visit: int = 0
    is_running: bool = False
    opened: set[int] = field(default_factory=set)


def check_story(events: list[dict[str, str]], status: str, revision: int) -> None:
    """The events, in order, are a path that the rules allow: the reference model of one node is four states."""
    kinds = [fields["event"] for fields in events]
    if status == "cancelled" and "RunStarted" not in kinds:
        assert kinds == ["RunFinished"], "nothing happens in a run that was cancelled before its start"
        return
    assert kinds[0] == "RunStarted", kinds
    assert kinds[-1] == "RunFinished", kinds
    assert kinds.count("RunStarted") == kinds.count("RunFinished") == 1
    assert events[-1]["status"] == status
    revisions = [int(fields["revision"]) for fields in events]
    assert revisions == sorted(revisions)
    assert revisions[-1] <= revision
    nodes: dict[str, _NodeStory] = defaultdict(_NodeStory)
    for fields in events:
        if "node" in fields:
            _follow(nodes[fields["node"]], fields)
    assert not [name for name, story in nodes.items() if story.is_running], "something never came to its end"


def _follow(story: _NodeStory, fields: dict[str, str]) -> None:
    visit = int(fields["visit"])
    match fields["event"]:
        case "NodeStarted":
            assert not story.is_running, fields
            assert visit > story.visit, fields
            story.visit, story.is_running = visit, True
        case "NodeStopped":
            # What was about to run is stopped, too.
            assert visit == story.visit if story.is_running else visit > story.visit, fields
            story.visit, story.is_running = visit, False
        case "NodeSucceeded" | "NodeFailed":
            assert story.is_running, fields
            assert visit == story.visit, fields
            story.is_running = False
        case "ItemsFinished" | "ItemFailed":
            assert story.is_running, fields
            assert visit == story.visit, fields
            assert visit in story.opened, fields
        case "RetryScheduled":
            assert story.is_running, fields
            assert visit == story.visit, fields
        case "MapOpened":
            assert story.is_running, fields
            assert visit not in story.opened, fields
            story.opened.add(visit)
        case "NodeSkipped":
            assert not story.is_running, fields
