"""Signals, messages and what is remembered, folded directly."""

from __future__ import annotations

import pytest

from graphflow import events
from graphflow.graph.tasks import RunStatus
from graphflow.inputs import (
    Crashed,
    ItemOutcomes,
    ItemsStored,
    MessagesSent,
    Outcome,
    RetryDue,
    SignalArrived,
    SignalAwaited,
    SignalOverdue,
    Started,
    Stop,
)
from graphflow.planning.compile import compile_plan
from graphflow.rules import pages
from graphflow.rules.crashes import may_have_been_in_flight, suspects_to_run
from graphflow.run import Failure, Message, NodeStatus, Place
from tests.simulation import new_run, work
from tests.unit.test_advance_rules import Folding


class Waiting(Folding):
    """With a state key for maps, and a mailbox for errors."""

    def __init__(self, *nodes, error_mailbox, slots=100):
        self.plan = compile_plan(
            nodes,
            name="test",
            state_keys=["numbers"],
            max_concurrent_tasks=slots,
            max_total_iterations=None,
            deadline=None,
            error_mailbox=error_mailbox,
        )
        self.run = new_run(self.plan, {"numbers": [1, 2, 3]})
        self.now = 0.0


def folding(*nodes, error_mailbox=None) -> Waiting:
    run = Waiting(*nodes, error_mailbox=error_mailbox)
    run.begin()
    return run


def place_of(run: Folding, name: str, *, module: int = 0, item: int | None = None) -> Place:
    return Place(run.index(name), run.state(name).visits, module, item)


def await_signal(run: Folding, name: str, signal: str, *, item: int | None = None):
    if item is None and run.state(name).modules[0].status is NodeStatus.READY:
        run.start(name)
    return run.fold(SignalAwaited(place_of(run, name, item=item), signal, f"signal:0:{signal}"))


def open_map(run: Folding, name: str, count: int) -> None:
    run.start(name)
    items = [(index, str(index)) for index in range(count)]
    run.fold(ItemsStored(run.index(name), run.state(name).visits, items))


def message(run: Folding, sender: str, text: str) -> Message:
    return Message("box", text, place_of(run, sender), f"sent:0:{text}")


def test_a_run_is_suspended_when_all_that_is_active_waits_for_signals():
    run = folding(work("a"), work("b"))

    await_signal(run, "a", "go")
    assert run.run.status is RunStatus.EXECUTING, "b is still to run"
    transition = await_signal(run, "b", "stop")

    assert run.run.status is RunStatus.SUSPENDED
    assert run.statuses("a", "b") == "waiting waiting"
    assert [event.kind for event in transition.events] == ["SignalAwaited", "RunSuspended"]
    assert transition.events[-1].signals == "go stop"


def test_the_outcome_of_another_node_suspends_the_run():
    run = folding(work("a"), work("b"))
    await_signal(run, "a", "go")

    run.succeed("b")

    assert run.run.status is RunStatus.SUSPENDED


def test_a_retry_that_waits_for_its_time_keeps_the_run_going():
    run = folding(work("a"), work("b", max_retries=2))
    await_signal(run, "a", "go")

    run.fail("b")

    assert run.statuses("a", "b") == "waiting waiting"
    assert run.run.status is RunStatus.EXECUTING


def test_an_answer_is_remembered_and_makes_the_module_ready():
    run = folding(work("a"))
    await_signal(run, "a", "go")

    transition = run.fold(SignalArrived("go", "42"))

    assert run.run.status is RunStatus.EXECUTING
    assert run.ready(transition) == ["a"]
    assert run.run.steps == {
        place_of(run, "a"): {"signal:0:go": "42", "wait:0:go": '{"since":2,"deadline":0}'}
    }
    assert run.run.waits == {}
    run.succeed("a")
    assert run.run.status is RunStatus.COMPLETE
    assert run.run.steps == {}, "the commit of the visit forgets it"


def test_a_signal_that_nobody_waits_for_is_kept_and_answers_the_next_wait_at_once():
    run = folding(work("a"))
    for value in ("1", "2"):
        run.fold(SignalArrived("go", value))

    transition = await_signal(run, "a", "go")

    assert run.ready(transition) == ["a"]
    assert run.run.signals == {"go": ("2",)}
    assert run.run.steps[place_of(run, "a")]["signal:0:go"] == "1"
    assert run.run.status is RunStatus.EXECUTING


def test_the_one_who_has_waited_longest_is_answered():
    run = folding(work("a"), work("b"))
    await_signal(run, "b", "go")
    await_signal(run, "a", "go")

    transition = run.fold(SignalArrived("go", "1"))

    assert run.ready(transition) == ["b"]


def test_a_map_waits_when_all_its_unfinished_items_wait():
    run = folding(work("m", map_over="numbers"))
    open_map(run, "m", 3)
    visit = run.state("m").visits

    await_signal(run, "m", "zero", item=0)
    run.fold(ItemOutcomes(run.index("m"), visit, done=[(1, "1")]))
    assert run.run.status is RunStatus.EXECUTING
    await_signal(run, "m", "two", item=2)

    assert run.run.status is RunStatus.SUSPENDED
    transition = run.fold(SignalArrived("two", "null"))
    assert transition.items_ready == [place_of(run, "m", item=2)]
    assert run.run.status is RunStatus.EXECUTING


def numbered():
    yield from range(1_000)


def page(run: Folding, name: str, start: int, stop: int, *, has_more: bool = True):
    """The items of a map from `start` to `stop`, as its generator yields them."""
    if not start:
        run.start(name)
    items = [(index, str(index)) for index in range(start, stop)]
    index, visit = run.index(name), run.state(name).visits
    return run.fold(ItemsStored(index, visit, items, start=start, span=stop, has_more=has_more))


def finish(run: Folding, name: str, *items: int):
    done = [(item, str(item)) for item in items]
    return run.fold(ItemOutcomes(run.index(name), run.state(name).visits, done=done))


@pytest.fixture
def window_of_three(monkeypatch):
    monkeypatch.setattr(pages, "WINDOW_ITEMS", 3)


def small(*nodes) -> Waiting:
    run = Waiting(*nodes, error_mailbox=None, slots=1)
    run.begin()
    return run


def test_a_map_whose_items_all_wait_goes_on_with_the_last_page_of_its_source():
    run = folding(work("m", map_over=numbered))
    page(run, "m", 0, 1)
    await_signal(run, "m", "go", item=0)
    assert run.run.status is RunStatus.EXECUTING, "more may come"

    page(run, "m", 1, 2, has_more=False)
    assert run.run.status is RunStatus.EXECUTING, "the new item is still to run"
    await_signal(run, "m", "go", item=1)

    assert run.run.status is RunStatus.SUSPENDED


def test_a_source_that_comes_to_its_end_without_another_item_suspends_the_run():
    run = folding(work("m", map_over=numbered))
    page(run, "m", 0, 1)
    await_signal(run, "m", "go", item=0)

    page(run, "m", 1, 1, has_more=False)

    assert run.run.status is RunStatus.SUSPENDED


def test_a_map_whose_items_all_wait_goes_on_with_what_it_is_handed():
    run = folding(work("a", map_over="numbers"), work("b", map_over="a", pipelined=True))
    open_map(run, "a", 2)
    follow(run, "b")
    finish(run, "a", 0)
    await_signal(run, "b", "go", item=0)
    assert run.run.status is RunStatus.EXECUTING

    finish(run, "a", 1)
    assert run.run.status is RunStatus.EXECUTING, "the last result is an item that is still to run"
    await_signal(run, "b", "go", item=1)

    assert run.run.status is RunStatus.SUSPENDED


def test_a_pipelined_map_that_opens_without_an_item_suspends_the_run_if_all_else_waits():
    run = folding(work("a", map_over="numbers"), work("b", map_over="a", pipelined=True))
    open_map(run, "a", 1)
    await_signal(run, "a", "go", item=0)
    assert run.run.status is RunStatus.EXECUTING, "b is still to read its source"

    follow(run, "b")

    assert run.run.status is RunStatus.SUSPENDED


def follow(run: Folding, name: str):
    run.start(name)
    index, visit = run.index(name), run.state(name).visits
    return run.fold(ItemsStored(index, visit, [], has_more=True, borrowed=1, follows=True))


def test_a_map_with_an_open_source_waits_when_its_window_is_full(window_of_three):
    run = small(work("m", map_over=numbered))
    page(run, "m", 0, 2)
    for item in (0, 1):
        await_signal(run, "m", "go", item=item)
    assert run.run.status is RunStatus.EXECUTING

    page(run, "m", 2, 4)
    await_signal(run, "m", "go", item=2)
    assert run.run.status is RunStatus.EXECUTING, "one item is still to run"
    await_signal(run, "m", "go", item=3)
    assert run.run.status is RunStatus.SUSPENDED

    run.fold(SignalArrived("go", "1"))
    finish(run, "m", 0)
    assert run.run.status is RunStatus.SUSPENDED, "there is still no room"
    run.fold(SignalArrived("go", "1"))
    finish(run, "m", 1)
    assert run.run.status is RunStatus.EXECUTING, "there is room for another page"


def test_a_map_with_an_open_source_waits_when_the_window_of_any_map_down_the_pipeline_is_full(
    window_of_three,
):
    run = small(
        work("a", map_over=numbered),
        work("b", map_over="a", pipelined=True),
        work("c", map_over="b", pipelined=True),
    )
    page(run, "a", 0, 3)
    follow(run, "b")
    follow(run, "c")
    for name in ("a", "b"):
        finish(run, name, 0, 1, 2)
    for item in (0, 1):
        await_signal(run, "c", "go", item=item)
    assert run.run.status is RunStatus.EXECUTING

    await_signal(run, "c", "go", item=2)

    assert run.run.status is RunStatus.SUSPENDED


def test_a_map_that_reads_the_results_of_one_that_has_settled_does_not_follow_it():
    run = folding(
        work("a", map_over="numbers"), work("later", "a"), work("b", "later", map_over="a", pipelined=True)
    )
    open_map(run, "a", 1)
    finish(run, "a", 0)
    run.succeed("later")
    page(run, "b", 0, 1)

    await_signal(run, "b", "go", item=0)

    assert run.run.status is RunStatus.EXECUTING, "there may be more results to read"


def test_a_map_of_which_all_records_are_there_comes_to_its_end_before_the_run_is_suspended():
    run = folding(work("a"), work("m", map_over="numbers"))
    open_map(run, "m", 1)
    run.run.maps[run.index("m")].unfinished.clear()

    await_signal(run, "a", "go")

    assert run.run.status is RunStatus.EXECUTING


def test_another_wait_is_counted_and_looks_at_no_other():
    class Unseen(dict):
        def __iter__(self):
            raise AssertionError("all waits are looked at")

        keys = values = items = __iter__

    run = folding(work("m", map_over="numbers"))
    open_map(run, "m", 5)
    run.run.waits = Unseen()

    for item in range(3):
        await_signal(run, "m", "go", item=item)
    finish(run, "m", 3)

    assert len(run.run.waits) == 3


def test_the_record_of_an_item_forgets_what_is_remembered_of_it_only():
    run = folding(work("m", map_over="numbers"))
    open_map(run, "m", 3)
    for item in (0, 1):
        run.run.steps[place_of(run, "m", item=item)] = {"step": "1"}

    run.fold(ItemOutcomes(run.index("m"), run.state("m").visits, done=[(0, "1")]))

    assert list(run.run.steps) == [place_of(run, "m", item=1)]


def test_what_is_cut_off_waits_no_more_but_keeps_its_steps_for_who_tries_it_again():
    run = folding(work("a"), work("b"))
    await_signal(run, "b", "go")
    run.run.steps[place_of(run, "b")] = {"step": "1"}

    run.fold(Stop(RunStatus.CANCELLED, "enough"))

    assert run.run.waits == {}
    assert list(run.run.steps) == [place_of(run, "b")]


def test_a_wait_of_a_visit_that_is_over_changes_nothing():
    run = folding(work("a"))
    place = place_of(run, "a")
    run.succeed("a")

    transition = run.fold(SignalAwaited(place, "go", "signal:0:go"))

    assert transition.waits == {}
    assert transition.events == []


def test_messages_are_delivered_and_taken_with_the_outcome():
    run = folding(work("a"), work("b"))
    run.start("a")
    run.fold(Outcome(run.index("a"), 0, 1, "null", sent=[message(run, "a", "one"), message(run, "a", "two")]))

    run.start("b")
    run.fold(Outcome(run.index("b"), 0, 1, "null", taken=[("box", "one")]))

    assert run.run.mailboxes == {"box": ["two"]}


def test_a_module_run_that_failed_leaves_the_messages_where_they_were():
    run = folding(work("a", max_retries=2), work("b"))
    run.fold(MessagesSent([Message("box", "one")]))
    run.start("a")

    failure = Failure("Boom", "it broke")
    run.fold(
        Outcome(run.index("a"), 0, 1, failure=failure, sent=[message(run, "a", "x")], taken=[("box", "one")])
    )

    assert run.run.mailboxes == {"box": ["one"]}


def test_what_left_before_the_commit_does_not_leave_again():
    run = folding(work("a"))
    run.start("a")
    early = message(run, "a", "one")

    run.fold(MessagesSent([early]))
    run.fold(MessagesSent([early]))
    run.fold(Outcome(run.index("a"), 0, 1, "null", sent=[early, message(run, "a", "other")]))

    assert run.run.mailboxes == {"box": ["one", "other"]}
    assert run.run.steps == {}


def test_messages_of_a_visit_that_is_over_are_dropped():
    run = folding(work("a"), work("b"))
    late = message(run, "a", "late")
    run.succeed("a")

    run.fold(MessagesSent([late]))

    assert run.run.mailboxes == {}


def test_the_error_mailbox_gets_what_failed_for_good():
    run = folding(work("a", max_retries=2), error_mailbox="errors")

    run.fail("a")
    assert run.run.mailboxes == {}
    run.fold(RetryDue(run.index("a"), 0))
    run.fail("a")

    assert run.run.mailboxes == {
        "errors": [
            '{"id":"a:1:0:-:error","from":"a","value":{"node":"a","item":null,"error":"Boom: it broke","attempts":2}}'
        ]
    }


def test_who_waits_for_a_signal_is_not_blamed_for_a_death():
    run = folding(work("a"), work("b"), work("m", map_over="numbers"))
    open_map(run, "m", 2)
    await_signal(run, "m", "go", item=0)
    await_signal(run, "a", "go")
    run.start("b")

    found = may_have_been_in_flight(run.plan, run.run)

    assert found.nodes == [run.index("b")]
    assert found.items == {run.index("m"): [1]}


def test_a_suspect_that_waits_for_a_signal_lets_the_others_run():
    run = folding(work("a"), work("b"))
    run.start("a")
    for deaths in (1, 2):
        run.run.deaths = deaths
        run.fold(Crashed())
    assert suspects_to_run(run.plan, run.run) is not None

    run.run.nodes[run.index("a")].modules[0].status = NodeStatus.READY
    run.fold(Started(run.index("a"), 0))
    await_signal(run, "a", "go")

    assert suspects_to_run(run.plan, run.run) is None


def test_every_event_can_be_stored_and_read():
    run = folding(work("a"))
    transition = await_signal(run, "a", "go")
    run.fold(SignalArrived("go", "1"))

    for event in transition.events:
        assert events.event_from_fields(events.event_fields(event)) == event


def test_answer_ends_the_patience_of_its_wait_only():
    run = folding(work("a"))
    run.start("a")
    place = place_of(run, "a")
    run.fold(SignalAwaited(place, "go", "signal:0:go", timeout=5))
    assert run.run.waits[place].deadline == run.now + 5000
    run.fold(SignalArrived("go", "1"))

    late = run.fold(SignalOverdue(place, "signal:0:go"))

    assert late.events == []
    assert "timeout:0:go" not in run.run.steps[place]


def test_refused_answer_gives_way_to_the_next_one_that_was_kept():
    run = folding(work("a"))
    for value in ("1", "2"):
        run.fold(SignalArrived("go", value))
    await_signal(run, "a", "go")
    run.start("a")

    place = place_of(run, "a")
    transition = run.fold(SignalAwaited(place, "go", "signal:0:go", refused="not 1"))

    assert [event.kind for event in transition.events] == ["SignalRefused", "SignalAwaited"]
    assert run.ready(transition) == ["a"]
    assert run.run.steps[place]["signal:0:go"] == "2"
    assert run.state("a").modules[0].attempts == 0
