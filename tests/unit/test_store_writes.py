"""A batch writes what differs from the mirror, in the fewest fields, and in writes that the scripts accept."""

from __future__ import annotations

import random

import pytest

from graphflow.events import ItemsFinished
from graphflow.inputs import Begin, ItemOutcomes, ItemsStored, Started, StateSet
from graphflow.rules.advance import advance, apply
from graphflow.run import Cause, Failure, ModuleState, NodeState, NodeStatus
from graphflow.store.fields import (
    failure_from_text,
    failure_text,
    item_failure_from_text,
    node_changes,
    node_from_fields,
    time_from_text,
    time_text,
)
from graphflow.store.keys import StoreKeys
from graphflow.store.write_list import MAX_ARGUMENTS, WriteList
from graphflow.store.writes import Tally, WriteBatch
from graphflow.transition import MapChange, Transition
from tests.contract.driving import NOW, chain_plan, loop_plan, map_plan, new_run

KEYS = StoreKeys().run("test")


def split(writes: WriteList) -> list[tuple]:
    """The list as (command, key, arguments)."""
    found, place = [], 0
    while place < len(writes.arguments):
        command, number, count = writes.arguments[place : place + 3]
        found.append((command, writes.keys[number - 1], writes.arguments[place + 3 : place + 3 + count]))
        place += 3 + count
    assert place == len(writes.arguments)
    return found


class Fold:
    def __init__(self, plan) -> None:
        self.plan, self.run, self.tally = plan, new_run(plan), Tally()

    def batch(self, *inputs) -> WriteBatch:
        batch = WriteBatch(self.plan, KEYS, self.tally)
        for each in inputs:
            transition = advance(self.plan, self.run, each, NOW, 0.5)
            batch.add(self.run, transition)
            apply(self.run, transition, self.plan)
        return batch


def test_any_number_of_fields_is_cut_into_writes_of_the_allowed_size():
    writes = WriteList("run")
    writes.set_fields("state", {str(number): None if number % 3 else "x" for number in range(4_000)})

    found = split(writes)

    assert [command for command, _, _ in found] == ["HSET"] * 3 + ["HDEL"] * 3
    assert max(len(arguments) for _, _, arguments in found) == MAX_ARGUMENTS
    assert sum(len(arguments) for command, _, arguments in found if command == "HDEL") == 2_666
    assert writes.keys == ["run", "state"]


def test_batch_without_transitions_is_empty():
    assert Fold(chain_plan()).batch().is_empty


def test_outcome_that_changes_nothing_still_moves_the_revision():
    fold = Fold(chain_plan())
    fold.batch(StateSet({"x": "1"}))

    batch = fold.batch(StateSet({"x": "1"}))

    assert fold.run.revision == 2
    assert not batch.is_empty
    assert batch.operations == 0


def test_field_that_changes_twice_is_written_once():
    fold = Fold(chain_plan())

    writes = fold.batch(StateSet({"x": "1"}), StateSet({"x": "2"})).writes("token", NOW)

    assert ("HSET", KEYS.state, ["x", "2"]) in split(writes)
    assert ("HSET", KEYS.revisions, ["x", "2"]) in split(writes)


def test_deleted_key_keeps_the_revision_of_its_end():
    fold = Fold(chain_plan())
    fold.batch(StateSet({"x": "1"}))

    writes = fold.batch(StateSet({"x": None})).writes("token", NOW)

    assert ("HDEL", KEYS.state, ["x"]) in split(writes)
    assert ("HSET", KEYS.revisions, ["x", "2"]) in split(writes)


def test_start_of_an_attempt_writes_the_status_and_little_else():
    fold = Fold(chain_plan())
    fold.batch(Begin())

    found = split(fold.batch(Started(0, 0)).writes("token", NOW))

    assert [(command, key) for command, key, _ in found] == [
        ("HSET", KEYS.run),
        ("HSET", KEYS.nodes),
        ("HSET", KEYS.node("first")),
        ("XADD", KEYS.events),
    ]
    assert found[1][2] == ["first", "running"]
    assert found[2][2] == ["started", time_text(NOW)]


def test_batch_of_items_is_counted_and_its_event_carries_the_token():
    fold = Fold(map_plan())
    fold.batch(Begin(), Started(0, 0), ItemsStored(0, 1, [(index, "1") for index in range(20)]))

    batch = fold.batch(ItemOutcomes(0, 1, done=[(index, "x" * 50) for index in range(10)]))
    found = split(batch.writes("7-token", NOW))

    assert batch.operations == 11
    assert 500 <= batch.size < 800
    assert not batch.opens_map
    assert ("HSET", KEYS.map("double"), ["done", "10"]) in found
    (event,) = [arguments for command, _, arguments in found if command == "XADD"]
    assert dict(zip(event[::2], event[1::2], strict=True))["token"] == "7-token"
    assert event[:2] == ["event", ItemsFinished.__name__]


def test_map_opened_again_within_a_batch_writes_the_last_visit_only():
    plan = map_plan()
    run, batch = new_run(plan), WriteBatch(plan, KEYS, Tally())
    for change in (
        MapChange(1, opened=[(0, "old"), (1, "old")]),
        MapChange(1, done=[(0, "result")]),
        MapChange(2, opened=[(5, "new")]),
    ):
        transition = Transition(run.revision + 1, 0, 0, 0, maps={0: change})
        batch.add(run, transition)
        apply(run, transition, plan)
    found = split(batch.writes("token", NOW))

    assert batch.opens_map
    assert [arguments for _, key, arguments in found if key == KEYS.map_in("double")] == [[], [5, "new"]]
    assert [command for command, key, _ in found if key == KEYS.map_out("double")] == ["UNLINK"]
    assert (
        "HSET",
        KEYS.map("double"),
        ["visit", "2", "total", "1", "span", "6", "failed", "0", "retried", "0", "done", "0"],
    ) in found


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_795_000_000_123.9, "2026-11-18T11:06:40.123Z"),
        (999, "1970-01-01T00:00:00.999Z"),
    ],
)
def test_time_is_written_to_the_millisecond(ms, text):
    assert time_text(ms) == text
    assert time_from_text(text) == int(ms)


def test_failure_comes_back_as_it_was():
    failure = Failure("ValueError", 'it said "no"\n', "line 1", retryable=False)

    assert failure_from_text(failure_text(failure)) == failure
    assert item_failure_from_text(failure_text(failure, 3)) == (failure, 3)
    assert failure_text(Failure("E", "")) == '{"type":"E","message":""}'


def test_what_is_behind_a_failure_comes_back_as_it_was() -> None:
    causes = (Cause("member", "OSError", "lost", 1, "frames"), Cause("cause", "KeyError", "'x'", 2))
    failure = Failure("ExceptionGroup", "one", causes=causes)

    assert item_failure_from_text(failure_text(failure, 3)) == (failure, 3)


def test_any_change_of_a_node_can_be_read_back():
    plan, rng = loop_plan(), random.Random(7)
    for node in plan.nodes:
        state, fields = NodeState(), {}
        for _ in range(300):
            after = some_state(len(node.modules), len(plan.nodes), rng)
            for field, text in node_changes(state, after, plan).items():
                if text is None:
                    del fields[field]
                else:
                    fields[field] = text
            assert node_from_fields(fields, after.status, plan, node) == after
            state = after


def some_state(modules: int, nodes: int, rng: random.Random) -> NodeState:
    """Any node state; one with visits has a state for each module."""
    statuses = list(NodeStatus)
    failures = [None, Failure("E", "x"), Failure("E", "y", "trace", retryable=False)]
    results = [None, "1", '"é"', "null"]
    visits = rng.choice([0, 1, 2])
    made = [
        ModuleState(
            rng.choice(statuses),
            rng.randrange(3),
            rng.choice(results),
            rng.choice(failures),
            rng.choice([0.0, NOW]),
        )
        for _ in range(modules if visits else 0)
    ]
    return NodeState(
        status=rng.choice(statuses),
        visits=visits,
        considered=rng.randrange(3),
        settled=rng.randrange(3),
        changed=rng.randrange(3),
        settled_as=rng.choice(statuses),
        chosen=rng.choice([None, 0, rng.randrange(1 << nodes)]),
        again=rng.random() < 0.5,
        handled=rng.randrange(2),
        reopened=rng.random() < 0.5,
        dropped=rng.random() < 0.5,
        failure=rng.choice(failures),
        result=rng.choice(results),
        started=rng.choice([0.0, NOW]),
        finished=rng.choice([0.0, NOW + 1]),
        modules=made,
    )
