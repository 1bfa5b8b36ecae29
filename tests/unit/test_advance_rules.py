"""The rules of docs/rules.md, one after another, folded directly."""

from __future__ import annotations

import pytest

from graphflow import events
from graphflow.graph.flow import FlowDecision
from graphflow.graph.tasks import RunStatus
from graphflow.inputs import Begin, ItemOutcomes, ItemsStored, Outcome, RetryDue, Started, StateSet, Stop
from graphflow.rules.advance import advance, apply
from graphflow.rules.retries import backoff_seconds
from graphflow.run import Failure, NodeStatus
from tests.simulation import (
    Fail,
    Simulation,
    To,
    choose,
    count,
    fails,
    flow,
    new_run,
    plan_of,
    simulate,
    work,
    write,
)


class Folding:
    """A run folded by hand, one input at a time."""

    def __init__(self, *nodes, state=None, **limits):
        self.plan = plan_of(*nodes, **limits)
        self.run = new_run(self.plan, state)
        self.now = 0.0

    def fold(self, outcome, draw=0.5):
        self.now += 1
        transition = advance(self.plan, self.run, outcome, self.now, draw)
        apply(self.run, transition, self.plan)
        return transition

    def begin(self):
        return self.fold(Begin())

    def start(self, name, module=0):
        return self.fold(Started(self.index(name), module))

    def succeed(self, name, result="null", *, module=0, decision=None, **writes):
        if self.state(name).modules[module].status is NodeStatus.READY:
            self.start(name, module)
        outcome = Outcome(
            self.index(name), module, self.state(name).visits, result, decision=decision, writes=writes
        )
        return self.fold(outcome)

    def fail(self, name, *, module=0, retryable=True):
        if self.state(name).modules[module].status is NodeStatus.READY:
            self.start(name, module)
        failure = Failure("Boom", "it broke", retryable=retryable)
        return self.fold(Outcome(self.index(name), module, self.state(name).visits, failure=failure))

    def index(self, name):
        return self.plan.by_name[name]

    def state(self, name):
        return self.run.nodes[self.index(name)]

    def statuses(self, *names):
        return " ".join(self.state(name).status.value for name in names)

    def ready(self, transition):
        return [self.plan.nodes[index].name for index, _ in transition.ready]


# The fold


def test_advance_leaves_the_run_as_it_is():
    folding = Folding(work("a"))

    transition = advance(folding.plan, folding.run, Begin(), 1.0, 0.5)

    assert transition.nodes[0].status == "ready"
    assert (folding.run.nodes[0].status, folding.run.revision, folding.run.status) == (
        "pending",
        0,
        "waiting",
    )


def test_only_what_has_room_and_need_not_wait_for_others_starts_with_an_outcome():
    folding = Folding(
        work("a"), work("b", "a"), work("c", "a", max_concurrency=1), work("d", "a"), work("e", "a")
    )
    folding.begin()
    folding.start("a")
    outcome = Outcome(0, 0, 1, "null")

    def statuses(room):
        transition = advance(folding.plan, folding.run, outcome, 9.0, 0.5, room=room)
        return " ".join(transition.nodes[folding.index(name)].status.value for name in "bcde")

    assert statuses(0) == "ready ready ready ready"
    assert statuses(1) == "running ready ready ready"
    assert statuses(4) == "running ready ready ready"


def test_revision_counts_outcomes_and_not_starts_or_retries():
    folding = Folding(work("a"))

    folding.begin()
    folding.start("a")
    assert folding.run.revision == 1
    folding.fail("a")
    assert folding.run.revision == 2
    folding.fold(RetryDue(0, 0))
    assert folding.run.revision == 2


@pytest.mark.parametrize(
    "late",
    [
        Begin(),
        Started(0, 0),
        RetryDue(0, 0),
        Outcome(0, 0, visit=2),
        Outcome(1, 0, visit=0),
        ItemsStored(0, 2, []),
        ItemOutcomes(0, 1, done=[(0, "1")]),
    ],
    ids=repr,
)
def test_inputs_about_something_that_is_over_change_nothing(late):
    folding = Folding(work("a"), work("b", "a"))
    folding.begin()
    folding.start("a")

    transition = folding.fold(late)

    assert (transition.revision, transition.nodes, transition.events) == (1, {}, [])


@pytest.mark.parametrize("late", [Outcome(0, 0, 1), StateSet({"k": "1"}), Stop(RunStatus.CANCELLED, "late")])
def test_nothing_changes_a_run_that_is_over(late):
    folding = Folding(work("a"))
    folding.begin()
    folding.succeed("a")

    transition = folding.fold(late)

    assert (transition.revision, transition.state, transition.status) == (2, {}, None)
    assert folding.run.status == "complete"


def test_set_outside_a_transaction_gets_a_revision_of_its_own():
    folding = Folding(work("a"), state={"k": 1})
    folding.begin()

    folding.fold(StateSet({"k": "1", "progress": "5"}))

    assert folding.run.state == {"k": "1", "progress": "5"}
    assert (folding.run.revisions, folding.run.keys_revision) == ({"progress": 2}, 2)


# Rule 1: the start


def test_rule_1_roots_start_and_those_that_a_flow_control_names_wait():
    folding = Folding(
        work("a"),
        work("named"),
        work("handler"),
        choose("f", "named", after=["a"]),
        work("b", on_error="handler"),
    )

    transition = folding.begin()

    assert folding.ready(transition) == ["a", "b"]


def test_rule_1_root_that_a_flow_control_below_it_names_starts():
    folding = Folding(work("plan"), work("do", "plan"), choose("f", "plan if more", after=["do"]))

    assert folding.ready(folding.begin()) == ["plan"]


def test_rule_1_start_true_starts_in_any_case_and_start_false_never_by_itself():
    folding = Folding(
        work("a", to=["b", "c"], start=True), work("b", start=True), work("c", start=False), work("d", "c")
    )

    assert folding.ready(folding.begin()) == ["a", "b"]


def test_rule_1_root_that_waits_is_skipped_when_all_that_could_choose_it_settled():
    folding = Folding(
        work("a"),
        work("b"),
        choose("f", "w if wanted", default="a2", after=["a"]),
        choose("g", "w if wanted", default="a2", after=["b"]),
        work("w"),
        work("a2"),
        work("after", "w"),
    )
    folding.begin()
    folding.succeed("a")
    assert folding.statuses("w", "after") == "pending pending"

    folding.succeed("b")

    assert folding.statuses("w", "after") == "skipped skipped"


def test_rule_1_failed_chooser_has_settled_without_choosing():
    folding = Folding(work("f", to=["w"], max_retries=1), work("w"), work("after", "w"))
    folding.begin()

    folding.fail("f")

    assert folding.statuses("w", "after") == "skipped skipped"
    assert folding.run.status == "failed"


def test_rule_1_root_that_a_supervisor_names_is_never_skipped():
    folding = Folding(
        work("a"),
        choose("f", "w if wanted", "x", after=["a"]),
        work("w"),
        work("x"),
        choose("hub", "w if late"),
    )
    folding.begin()

    folding.succeed("a", late="true")
    assert folding.statuses("w", "x") == "pending ready"

    assert folding.ready(folding.succeed("x")) == ["w"]


def test_rule_1_error_handler_is_skipped_when_there_was_nothing_to_handle():
    simulation = simulate(plan_of(work("a", on_error="h"), work("h"), work("after", "a", "h")))

    assert (simulation.status("h"), simulation.status("after"), simulation.run.status) == (
        "skipped",
        "succeeded",
        "complete",
    )


def test_rule_1_node_with_dependencies_and_start_false_waits_for_a_decision():
    plan = plan_of(
        work("combine"),
        work("enough", "combine", to=["combine", "report"]),
        work("report", "combine", start=False),
    )
    enough = lambda view: To("combine" if view.visit < 3 else "report")  # noqa: E731

    simulation = simulate(plan, {"enough": enough})

    assert simulation.visits("combine", "enough", "report") == (3, 3, 1)
    assert (simulation.run.status, simulation.status("report")) == ("complete", "succeeded")


def test_rule_1_node_with_start_false_below_its_chooser_starts_when_its_other_dependencies_are_there():
    plan = plan_of(work("a", to=["b"]), work("slow"), work("b", "a", "slow", start=False))

    simulation = simulate(plan, {"a": lambda view: To("b")})

    assert (simulation.visits("b"), simulation.run.status) == ((1,), "complete")


def test_rule_1_root_that_a_starting_flow_control_has_started_does_not_start_twice():
    simulation = simulate(plan_of(choose("f", "x", start=True), work("x", start=True)))

    assert simulation.visits("x") == (1,)


def test_rule_1_root_is_not_skipped_while_a_chooser_is_about_to_decide_again():
    folding = Folding(
        work("plan", start=True),
        work("s1", "plan"),
        work("s2", "plan"),
        choose("f", "w if n == 1", "v", after=["s1"]),
        choose("g", "w if n == 2", "v", after=["s2"]),
        work("w"),
        work("v"),
        choose("again", "plan if n < 2", after=["s1", "s2"]),
    )
    folding.begin()
    folding.succeed("plan", n="1")
    for name in ("s2", "s1", "w", "v"):
        folding.succeed(name)
    folding.succeed("plan", n="2")

    folding.succeed("s1")
    assert folding.statuses("f", "w", "s2") == "succeeded succeeded ready"
    folding.succeed("s2")

    assert (folding.statuses("w"), folding.state("w").visits) == ("ready", 2)


# Rule 2: readiness


def test_rule_2_node_starts_when_its_last_dependency_settles():
    folding = Folding(work("a"), work("b"), work("c", "a", "b"))
    folding.begin()

    assert folding.ready(folding.succeed("a")) == []
    assert folding.ready(folding.succeed("b")) == ["c"]


def test_rule_2_old_result_is_not_joined_with_one_about_to_come():
    folding = Folding(
        work("plan", start=True),
        work("short", "plan"),
        work("l1", "plan"),
        work("l2", "l1"),
        work("join", "short", "l2"),
        work("again", to=["plan"]),
    )
    folding.begin()
    for name in ("plan", "short", "l1", "l2", "join"):
        folding.succeed(name)
    folding.succeed("again", decision=("plan",))
    folding.succeed("plan")

    assert folding.ready(folding.succeed("short")) == []
    assert folding.ready(folding.succeed("l1")) == ["l2"]
    assert folding.ready(folding.succeed("l2")) == ["join"]


def test_rule_2_settled_node_that_was_asked_for_again_starts_before_what_is_below_it():
    folding = Folding(work("a", start=True), work("b", "a"), work("p", to=["a"]))
    folding.begin()
    folding.start("a")
    folding.succeed("p", decision=("a",))
    assert folding.state("a").again

    transition = folding.succeed("a")

    assert folding.ready(transition) == ["a"]
    assert (folding.statuses("a", "b"), folding.state("a").again) == ("ready pending", False)


def test_rule_2_request_counts_once_more_for_a_node_that_is_ready_but_has_no_slot():
    folding = Folding(work("a", start=True), work("p", to=["a"]), max_concurrent_tasks=1)
    folding.begin()

    folding.succeed("p", decision=("a",))
    folding.succeed("a")

    assert folding.state("a").visits == 2


def test_rule_2_request_is_met_by_a_start_of_the_same_outcome():
    folding = Folding(
        work("a"), choose("f", "x", after=["a"]), choose("g", "x", after=["a"]), work("x"), work("y", "a")
    )
    folding.begin()

    folding.succeed("a")
    folding.succeed("x")

    assert folding.state("x").visits == 1


def test_rule_2_all_dependencies_skipped_means_skipped():
    simulation = simulate(plan_of(work("a", condition="no"), work("b", "a"), work("c", "b")))

    assert [simulation.status(name) for name in "abc"] == ["skipped"] * 3
    assert simulation.run.status == "complete"


def test_rule_2_node_that_a_jump_started_does_not_run_again_for_what_the_same_outcome_settled():
    plan = plan_of(work("a"), choose("f", "x", after=["a"]), choose("g", after=["a"]), work("x", "g"))

    assert simulate(plan).visits("x") == (1,)


# Rule 3: conditions


def test_rule_3_condition_is_evaluated_each_time_the_node_is_considered():
    plan = plan_of(
        work("plan"),
        work("odd", "plan", condition="n % 2 == 1"),
        choose("f", "plan if n < 3", after=["odd", "plan"]),
    )

    simulation = simulate(plan, {"plan": count("n")})

    assert simulation.visits("plan", "odd") == (3, 2)
    assert len(simulation.told(events.NodeSkipped, "odd")) == 1


def test_rule_3_condition_counts_for_a_node_that_a_decision_starts():
    folding = Folding(work("a", to=["x"]), work("x", condition="wanted"))
    folding.begin()

    transition = folding.succeed("a", decision=("x",))

    assert folding.statuses("x") == "skipped"
    assert folding.state("x").visits == 0
    assert [event.reason for event in transition.events if isinstance(event, events.NodeSkipped)] == [
        "its condition is false: wanted"
    ]


def test_rule_3_condition_that_cannot_be_evaluated_fails_the_node_with_both_types():
    simulation = simulate(plan_of(work("a"), work("b", "a", condition="a + 'x' == 1")), {"a": write(a=1)})

    assert (simulation.status("b"), simulation.run.status) == ("failed", "failed")
    assert "int" in simulation.run.error
    assert "str" in simulation.run.error


def test_rule_3_result_that_disappears_with_a_skip_is_a_change():
    folding = Folding(work("a", start=True), work("x", "a", condition="n == 1"), work("again", to=["a"]))
    folding.begin()
    folding.succeed("a", n="1")
    folding.succeed("x", "5")
    assert folding.state("x").changed == folding.run.revision
    folding.succeed("again", decision=("a",))

    folding.succeed("a", n="2")

    assert folding.state("x").changed == folding.run.revision


def test_rule_3_skipped_node_has_no_result_of_an_earlier_pass():
    plan = plan_of(
        work("plan"),
        work("x", "plan", condition="n == 1"),
        work("y", "plan", "x", condition="nodes.x == null"),
        choose("f", "plan if n < 2", after=["y", "plan"]),
    )

    simulation = simulate(plan, {"plan": count("n"), "x": lambda view: "made"})

    assert simulation.visits("x", "y") == (1, 1)


# Rule 4: modules


def test_rule_4_modules_run_one_after_another():
    folding = Folding(work("a", modules=2))

    assert folding.begin().ready == [(0, 0)]
    assert folding.succeed("a", "1").ready == [(0, 1)]
    folding.succeed("a", "2", module=1)

    assert (folding.state("a").result, folding.run.status) == ("2", "complete")


def test_rule_4_parallel_modules_start_together():
    folding = Folding(work("a", modules=3, parallel=True))

    assert folding.begin().ready == [(0, 0), (0, 1), (0, 2)]
    folding.succeed("a", module=1)
    folding.succeed("a", module=2)
    assert folding.statuses("a") == "ready"
    folding.succeed("a", module=0)

    assert folding.run.status == "complete"


def test_rule_4_stop_on_success_leaves_the_later_modules_out():
    simulation = simulate(plan_of(work("a", modules=3, stop_on_success=True)))

    assert [module.status.value for module in simulation.state("a").modules] == [
        "succeeded",
        "skipped",
        "skipped",
    ]
    assert simulation.run.status == "complete"


def test_rule_4_retry_repeats_the_failed_module_alone():
    folding = Folding(work("a", modules=2))
    folding.begin()
    folding.succeed("a")

    transition = folding.fail("a", module=1)

    assert (folding.statuses("a"), transition.delayed) == ("waiting", [(0, 1, folding.now + 50)])
    assert folding.fold(RetryDue(0, 1)).ready == [(0, 1)]
    folding.succeed("a", module=1)
    assert [module.attempts for module in folding.state("a").modules] == [1, 2]


# Rule 5: decisions


def test_rule_5_every_true_decision_fires():
    simulation = simulate(
        plan_of(
            work("a"),
            choose("f", "x if true", "y if 1 == 1", "z if false", after=["a"]),
            *(work(n, "f") for n in "xyz"),
        )
    )

    assert simulation.visits("x", "y", "z") == (1, 1, 0)


def test_rule_5_select_first_takes_the_first_true_decision():
    simulation = simulate(
        plan_of(
            work("a"),
            choose("f", "z if false", "x if true", "y if true", after=["a"], select="first"),
            *(work(n, "f") for n in "xyz"),
        )
    )

    assert simulation.visits("x", "y", "z") == (1, 0, 0)


@pytest.mark.parametrize(("wanted", "visits"), [(True, (1, 0)), (False, (0, 1))])
def test_rule_5_decision_without_a_condition_is_the_else(wanted, visits):
    plan = plan_of(work("a"), choose("f", "x if wanted", "y", after=["a"]), work("x", "f"), work("y", "f"))

    assert simulate(plan, {"a": write(wanted=wanted)}).visits("x", "y") == visits


def test_rule_5_default_fires_when_no_decision_is_true():
    plan = plan_of(
        work("a"), choose("f", "x if no", after=["a"], default=["y", "z"]), *(work(n, "f") for n in "xyz")
    )

    assert simulate(plan).visits("x", "y", "z") == (0, 1, 1)


def test_rule_5_without_a_default_the_run_falls_through_to_all_dependents():
    plan = plan_of(work("a"), choose("f", "w if no", after=["a"]), work("w"), work("x", "f"), work("y", "f"))

    assert simulate(plan).visits("w", "x", "y") == (0, 1, 1)


def test_rule_5_node_decides_on_its_own_new_result():
    plan = plan_of(
        work("judge", flow=flow("good if nodes.judge > 3", default="bad")),
        work("good", "judge"),
        work("bad", "judge"),
    )

    assert simulate(plan, {"judge": lambda view: 5}).visits("good", "bad") == (1, 0)


def test_rule_5_returned_decision_none_falls_through_and_an_empty_list_chooses_nothing():
    nodes = (work("a", to=["x", "y"]), work("x", "a"), work("y", "a"))

    assert simulate(plan_of(*nodes), {"a": lambda view: None}).visits("x", "y") == (1, 1)
    assert simulate(plan_of(*nodes), {"a": lambda view: To()}).visits("x", "y") == (0, 0)


def test_rule_5_unchosen_node_is_skipped_though_another_dependency_failed():
    folding = Folding(work("a", to=["x", "y"]), work("b", max_retries=1), work("x", "a"), work("y", "a", "b"))
    folding.begin()
    folding.fail("b")

    folding.succeed("a", decision=("x",))

    assert folding.statuses("x", "y") == "ready skipped"


def test_rule_5_jump_starts_a_node_whatever_its_dependencies_did():
    folding = Folding(work("a"), work("b", "a"), work("p", to=["b"]))
    folding.begin()

    assert folding.ready(folding.succeed("p", decision=("b",))) == ["b"]
    assert folding.statuses("a", "b") == "ready ready"


def test_rule_5_end_cancels_what_runs():
    folding = Folding(work("a", to=["END"]), work("b"), work("c", "b"))
    folding.begin()
    folding.start("b")

    transition = folding.succeed("a", decision=("END",))

    assert transition.stopped == 1 << folding.index("b")
    assert transition.ready == []
    assert (folding.run.status, folding.statuses("a", "b", "c")) == ("complete", "succeeded pending pending")
    assert [type(event).__name__ for event in transition.events] == [
        "DecisionFired",
        "NodeSucceeded",
        "NodeStopped",
        "RunFinished",
    ]


def test_rule_5_outcomes_behind_the_end_are_dropped():
    folding = Folding(work("a", to=["END"]), work("b"))
    folding.begin()
    folding.start("b")
    folding.succeed("a", decision=("END",))

    transition = folding.fold(Outcome(folding.index("b"), 0, 1, "1", writes={"late": "1"}))

    assert (transition.state, transition.nodes, folding.run.state) == ({}, {}, {})


def test_rule_5_cancelled_second_visit_falls_back_to_how_the_node_last_settled():
    folding = Folding(work("a", to=["b"]), work("b", start=True), work("c", to=["END"]))
    folding.begin()
    folding.succeed("b", "1")
    folding.succeed("a", decision=("b",))

    folding.succeed("c", decision=("END",))

    assert (folding.statuses("b"), folding.state("b").result) == ("succeeded", "1")
    assert folding.run.status == "complete"


def test_rule_5_end_after_a_failure_without_a_successful_end_node_is_failed():
    folding = Folding(work("a", max_retries=1), work("f", to=["END", "x"]), work("x"), work("b", "a"))
    folding.begin()
    folding.fail("a")

    folding.succeed("f", decision=("END",))

    assert folding.run.status == "failed"


def test_rule_5_decision_deletes_its_condition_variables():
    plan = plan_of(
        work("a"),
        choose("f", FlowDecision(next_node="x", condition="go", condition_variables=["go"]), after=["a"]),
        work("x", "f"),
    )

    simulation = simulate(plan, {"a": write(go=True)})

    assert (simulation.visits("x"), simulation.value("go")) == ((1,), None)


def test_rule_5_flow_control_at_the_start_of_the_graph_decides_at_the_start():
    simulation = simulate(plan_of(choose("f", "x"), work("x", "f"), work("y", "f")))

    assert simulation.visits("x", "y") == (1, 0)


def test_rule_5_end_makes_no_stall_of_what_did_not_start():
    simulation = Simulation(
        plan_of(work("a", to=["END", "c"]), work("b"), work("c", "a", "b")), {"a": lambda view: To("END")}
    )
    simulation.finish()

    assert (simulation.run.status, simulation.status("c")) == ("complete", "pending")


def test_rule_5_flow_control_decides_once_per_outcome():
    plan = plan_of(
        work("a"),
        choose("f1", "g", after=["a"]),
        choose("f2", "g", after=["a"]),
        choose("g", "x"),
        work("x", "g"),
    )

    simulation = simulate(plan)

    assert (simulation.visits("g", "x"), len(simulation.told(events.DecisionFired, "g"))) == ((1, 1), 1)


# Rule 6: supervisors


def test_rule_6_supervisor_decides_at_the_start_if_no_root_starts():
    folding = Folding(choose("hub", "x if n == null"), work("x"))

    assert folding.ready(folding.begin()) == ["x"]


def test_rule_6_decision_fires_again_only_when_what_it_reads_has_changed():
    plan = plan_of(choose("hub", "x if n == null or n < 9"), work("x"))

    simulation = simulate(plan, {"x": lambda view: view.set("n", min(view.visit, 3))})

    assert simulation.visits("x") == (4,)
    assert simulation.run.held == ("hub -> x: n == null or n < 9",)
    assert simulation.run.status == "complete"


def test_rule_6_refraction_looks_at_results_of_nodes_too():
    plan = plan_of(
        choose("hub", "x if nodes.y == null or nodes.y < 3", "y if nodes.x != null"), work("x"), work("y")
    )

    simulation = simulate(plan, {"x": lambda view: view.visit, "y": lambda view: min(view.visit, 2)})

    assert simulation.visits("x", "y") == (3, 3)
    assert simulation.run.status == "complete"


def test_rule_6_all_targets_are_found_on_one_state_before_any_starts():
    plan = plan_of(choose("h1", "x if n == null"), choose("h2", "y if n == null"), work("x"), work("y"))

    simulation = simulate(plan, {"x": write(n=1), "y": write(n=2)})

    assert simulation.visits("x", "y") == (1, 1)


def test_rule_6_end_counts_only_if_nothing_else_fires():
    plan = plan_of(choose("h1", "END if true"), choose("h2", "x if n == null"), work("x"))

    simulation = simulate(plan, {"x": write(n=1)})

    assert (simulation.visits("x"), simulation.run.status) == ((1,), "complete")
    assert simulation.told(events.DecisionFired, "h1")[-1].chosen == "END"


def test_rule_6_a_true_decision_that_cannot_fire_still_keeps_the_default_from_firing():
    plan = plan_of(choose("hub", "x if true", default="y"), work("x"), work("y"))

    simulation = simulate(plan)

    assert simulation.visits("x", "y") == (1, 0)


def test_rule_6_default_reads_what_all_conditions_read():
    plan = plan_of(choose("hub", "x if n == 99", default="y"), work("x"), work("y"))

    simulation = simulate(plan, {"y": lambda view: view.set("n", min(view.visit, 3))})

    assert simulation.visits("x", "y") == (0, 4)


def test_rule_6_supervisor_whose_condition_cannot_be_evaluated_fails_and_decides_no_more():
    plan = plan_of(
        choose("hub", "x if n + 'a' == 1"),
        choose("other", "y if n == 1"),
        work("x"),
        work("y", max_retries=1),
    )

    simulation = simulate(plan, {"y": fails()}, state={"n": 1})

    assert (simulation.status("hub"), simulation.run.status) == ("failed", "failed")
    assert len(simulation.told(events.NodeFailed, "hub")) == 1
    assert "'hub' failed" in simulation.run.error


def test_rule_6_failed_supervisor_decides_again_when_its_handler_has_repaired_the_state():
    plan = plan_of(work("a"), choose("hub", "x if n + 1 > 0", on_error="fix"), work("x"), work("fix"))

    simulation = simulate(plan, {"a": write(n="text"), "fix": write(n=1)})

    assert simulation.visits("fix", "x") == (1, 1)
    assert (simulation.status("hub"), simulation.run.status) == ("succeeded", "complete")


def test_rule_6_max_visits_of_a_supervisor_bounds_how_often_it_fires():
    plan = plan_of(
        choose("hub", FlowDecision(next_node="x", condition="true", repeat=True), max_visits=3), work("x")
    )

    simulation = simulate(plan)

    assert (simulation.visits("x"), simulation.run.status) == ((3,), "failed")
    assert simulation.run.error == "node 'hub' reached max_visits=3"


def test_rule_6_repeated_decision_for_flow_control_that_starts_nothing_ends():
    plan = plan_of(
        choose("hub", FlowDecision(next_node="g", condition="true", repeat=True)),
        choose("g", "x"),
        work("x", "g", condition="never"),
    )

    simulation = simulate(plan)

    assert simulation.visits("g", "x") == (1, 0)


def test_rule_6_repeated_decision_falls_under_refraction_while_its_target_was_skipped():
    plan = plan_of(
        choose("hub", FlowDecision(next_node="x", condition="true", repeat=True), "y if n == null or n < 3"),
        work("x", condition="n == 2"),
        work("y"),
    )

    simulation = simulate(plan, {"y": count("n")})

    assert (simulation.visits("x", "y"), len(simulation.told(events.NodeSkipped, "x"))) == ((0, 3), 1)


# Rule 7: the end


def test_rule_7_failure_beside_a_successful_end_node_is_partial():
    simulation = simulate(plan_of(work("a"), work("b", max_retries=1)), {"b": fails()})

    assert simulation.run.status == "partial"
    assert simulation.run.error == "node 'b' failed: Fail: boom"


def test_rule_7_failed_item_makes_the_run_partial():
    plan = plan_of(work("a"), work("m", "a", map_over="a", max_retries=1), work("end", "m"))

    simulation = simulate(plan, {"a": lambda view: [1, 2, 3], "m": lambda view: _fail_on(view, 2)})

    assert (simulation.run.status, simulation.run.error) == ("partial", "node 'm': 1 item failed")


def test_rule_7_failed_items_without_a_successful_end_node_are_a_failed_run():
    plan = plan_of(
        work("a"), work("m", "a", map_over="a", max_retries=1), work("end", "m", condition="never")
    )

    simulation = simulate(plan, {"a": lambda view: [1, 2, 3], "m": lambda view: _fail_on(view, 2)})

    assert simulation.run.status == "failed"


def test_rule_7_dependency_that_nothing_will_start_is_a_stall_that_names_it():
    plan = plan_of(
        choose("hub", "x if n == null", "y if n == 'never'"), work("x"), work("y"), work("join", "x", "y")
    )

    simulation = simulate(plan, {"x": write(n=1)})

    assert simulation.run.status == "failed"
    assert simulation.run.error == "stalled: 'join' waits for 'y', which nothing will start"


def test_rule_7_all_skipped_is_complete():
    assert simulate(plan_of(work("a", condition="never"))).run.status == "complete"


def test_rule_7_cancelled_run_keeps_its_reason():
    folding = Folding(work("a"), work("b", "a"))
    folding.begin()
    folding.start("a")

    transition = folding.fold(Stop(RunStatus.CANCELLED, "asked for"))

    assert (folding.run.status, folding.run.error) == ("cancelled", "asked for")
    assert (transition.stopped, folding.run.active) == (1, 0)
    assert folding.state("a").modules[0].status == "pending"


# Rule 8: failures


def test_rule_8_max_retries_is_the_number_of_attempts_in_total():
    simulation = simulate(plan_of(work("a", max_retries=3)), {"a": fails()})

    assert (simulation.state("a").attempts, len(simulation.told(events.RetryScheduled))) == (3, 2)


def test_rule_8_no_retry_when_switched_off_or_final():
    assert simulate(plan_of(work("a", retry_on_failure=False)), {"a": fails()}).state("a").attempts == 1
    assert simulate(plan_of(work("a")), {"a": fails(final=True)}).state("a").attempts == 1


def test_rule_8_back_off_doubles_up_to_its_limit_with_full_jitter():
    assert [backoff_seconds(attempts, 1.0) for attempts in (1, 2, 3, 10, 5000)] == [0.1, 0.2, 0.4, 30.0, 30.0]
    assert backoff_seconds(3, 0.0) == 0.0


def test_rule_8_failure_goes_to_the_handler_with_an_entry_in_errors():
    plan = plan_of(work("a", on_error="h", max_retries=2), work("h"), work("end"))

    simulation = simulate(plan, {"a": fails()})

    assert simulation.value("errors") == [{"node": "a", "item": None, "error": "Fail: boom", "attempts": 2}]
    assert (simulation.visits("h"), simulation.run.status) == ((1,), "partial")


def test_rule_8_handler_that_leads_back_makes_the_failure_a_retry():
    plan = plan_of(work("a", on_error="h", max_retries=1), work("h", to=["a"]), work("end", "a"))

    simulation = simulate(plan, {"a": fails(1), "h": lambda view: To("a")})

    assert simulation.visits("a", "h", "end") == (2, 1, 1)
    assert simulation.run.status == "complete"


def test_rule_8_handler_above_runs_again_and_with_it_what_failed():
    plan = plan_of(work("plan"), work("do", "plan", retry_from="plan", max_retries=2))

    simulation = simulate(plan, {"do": fails(1)})

    assert simulation.visits("plan", "do") == (2, 2)
    assert simulation.run.status == "complete"


def test_rule_8_failure_is_handled_at_most_max_retries_times_in_a_row():
    plan = plan_of(work("a", on_error="h", max_retries=2), work("h", to=["a"]), work("end"))

    simulation = simulate(plan, {"a": fails(), "h": lambda view: To("a")})

    assert simulation.visits("a", "h") == (3, 2)
    assert simulation.run.status == "partial"


def test_rule_8_decision_that_names_a_failed_node_is_an_event_once():
    plan = plan_of(
        work("a", max_retries=1, start=True), work("p", "w", to=["a"]), work("w", to=["w"], start=True)
    )
    behaviours = {
        "a": fails(),
        "p": lambda view: To("a"),
        "w": lambda view: To("w") if view.visit < 4 else None,
    }

    simulation = simulate(plan, behaviours)

    assert (simulation.visits("a"), len(simulation.told(events.DecisionDropped))) == ((1,), 1)


def test_rule_8_request_that_waits_for_a_node_is_dropped_with_its_failure():
    folding = Folding(work("a", start=True, max_retries=1), work("p", to=["a"]))
    folding.begin()
    folding.start("a")
    folding.succeed("p", decision=("a",))

    transition = folding.fail("a")

    assert (folding.statuses("a"), folding.state("a").again) == ("failed", False)
    assert any(isinstance(event, events.DecisionDropped) for event in transition.events)


def test_rule_8_success_of_the_handler_opens_only_what_failed_before_it_started():
    folding = Folding(
        work("a", on_error="h", max_retries=1), work("b", on_error="h", max_retries=1), work("h")
    )
    folding.begin()
    folding.fail("a")
    folding.start("h")
    folding.fail("b")

    folding.succeed("h")
    assert (folding.state("a").reopened, folding.state("b").reopened) == (True, False)
    folding.succeed("h")

    assert folding.state("b").reopened


def test_rule_8_handler_that_ran_is_not_skipped_because_another_node_has_nothing_to_handle():
    folding = Folding(work("a", on_error="h", max_retries=1), work("b", on_error="h"), work("h"), work("c"))
    folding.begin()
    folding.fail("a")
    folding.succeed("h")

    folding.succeed("b")

    assert folding.statuses("h") == "succeeded"


def test_rule_8_parallel_modules_finish_before_the_node_fails():
    folding = Folding(work("a", modules=2, parallel=True, max_retries=1))
    folding.begin()
    folding.start("a", 1)

    folding.fail("a", module=0)
    assert folding.statuses("a") == "running"
    folding.succeed("a", module=1, kept="1")

    assert (folding.statuses("a"), folding.run.state) == ("failed", {"kept": "1"})


def test_rule_8_clean_up_waits_until_the_failure_was_handled():
    plan = plan_of(
        work("a", on_error="h", max_retries=1),
        work("h"),
        work("b", "a"),
        work("clean", "b", run_when="settled"),
    )

    simulation = simulate(plan, {"a": fails()})
    order = [event.node for event in simulation.told(events.NodeStarted)]

    assert order == ["a", "h", "clean"]
    assert simulation.visits("b") == (0,)


def test_rule_8_clean_up_runs_once_after_a_failure_that_was_repaired():
    plan = plan_of(
        work("a", on_error="h", max_retries=1),
        work("h", to=["a"]),
        work("b", "a"),
        work("clean", "b", run_when="settled"),
    )

    simulation = simulate(plan, {"a": fails(1), "h": lambda view: To("a")})

    assert simulation.visits("b", "clean") == (1, 1)
    assert simulation.run.status == "complete"


# Rule 9: limits


def test_rule_9_start_beyond_max_total_iterations_is_not_made_and_what_runs_finishes():
    folding = Folding(work("a"), work("b"), work("c", "a"), max_total_iterations=2)
    folding.begin()

    transition = folding.succeed("a")
    assert transition.limit == "the run reached max_total_iterations=2"
    assert (folding.run.status, folding.statuses("b", "c")) == ("executing", "ready pending")
    folding.succeed("b", kept="1")

    assert (folding.run.status, folding.run.error) == ("failed", "the run reached max_total_iterations=2")
    assert folding.run.state == {"kept": "1"}


def test_rule_9_retries_are_no_new_starts():
    simulation = simulate(plan_of(work("a", max_retries=3), max_total_iterations=1), {"a": fails_twice})

    assert simulation.run.status == "complete"


def test_rule_9_max_visits_names_the_node():
    plan = plan_of(work("a", to=["a"], start=True, max_visits=3))

    simulation = simulate(plan, {"a": lambda view: To("a")})

    assert (simulation.visits("a"), simulation.run.error) == ((3,), "node 'a' reached max_visits=3")


def test_rule_9_false_condition_comes_before_the_limits():
    simulation = simulate(plan_of(work("a"), work("b", "a", condition="never"), max_total_iterations=1))

    assert (simulation.status("b"), simulation.run.status) == ("skipped", "complete")


def test_rule_9_deadline_stops_the_run():
    folding = Folding(work("a"), work("b", "a"))
    folding.begin()
    folding.start("a")

    folding.fold(Stop(RunStatus.FAILED, "the run reached deadline=5 s"))

    assert (folding.run.status, folding.run.error) == ("failed", "the run reached deadline=5 s")


# Rule 10: maps


def map_folding(**config):
    folding = Folding(work("source"), work("m", "source", map_over="source", **config), work("after", "m"))
    folding.begin()
    folding.succeed("source", "[1,2,3]")
    folding.start("m")
    folding.fold(ItemsStored(1, 1, [(0, "1"), (1, "2"), (2, "3")]))
    return folding


def _fail_on(view, item):
    if view.item == item:
        raise Fail


def test_rule_10_map_ends_with_its_last_item():
    folding = map_folding()

    transition = folding.fold(ItemOutcomes(1, 1, done=[(2, "6"), (0, "2")]))
    assert (folding.run.revision, folding.run.maps[1].unfinished, transition.ready) == (5, {1}, [])
    transition = folding.fold(ItemOutcomes(1, 1, done=[(1, "4")]))

    assert (folding.statuses("m"), folding.ready(transition)) == ("succeeded", ["after"])


def test_rule_10_failed_items_are_left_out_and_all_failed_fails_the_node():
    folding = map_folding()
    failed = [(index, Failure("Boom", f"on {index}"), 3) for index in range(3)]

    folding.fold(ItemOutcomes(1, 1, failed=failed[:2]))
    folding.fold(ItemOutcomes(1, 1, failed=failed[2:]))

    assert (folding.statuses("m", "after"), folding.run.status) == ("failed pending", "failed")
    assert (
        folding.run.error
        == "node 'm' failed: AllItemsFailed: all 3 items failed; the last one, item 2: Boom: on 2"
    )


def test_rule_10_on_item_error_fail_stops_the_map_at_the_first():
    folding = map_folding(on_item_error="fail")

    transition = folding.fold(ItemOutcomes(1, 1, done=[(0, "2")], failed=[(1, Failure("Boom", "no"), 3)]))

    assert (transition.stopped, folding.statuses("m")) == (2, "failed")
    assert folding.state("m").failure.summary == "Boom: item 1: no"
    late = folding.fold(ItemOutcomes(1, 1, done=[(2, "6")]))
    assert (late.maps, late.nodes) == ({}, {})


def test_rule_10_items_of_an_earlier_visit_are_ignored():
    plan = (work("source"), work("m", "source", map_over="source"), work("f", "m", to=["source"]))
    folding = Folding(*plan)
    folding.begin()
    folding.succeed("source", "[1]")
    folding.start("m")
    folding.fold(ItemsStored(1, 1, [(0, "1")]))
    folding.fold(ItemOutcomes(1, 1, done=[(0, "2")]))
    folding.succeed("f", decision=("source",))
    folding.succeed("source", "[1]")
    folding.start("m")
    assert folding.fold(ItemOutcomes(1, 2, done=[(0, "2")])).maps == {}
    folding.fold(ItemsStored(1, 2, [(0, "1")]))

    assert folding.fold(ItemOutcomes(1, 1, done=[(0, "2")])).maps == {}
    assert folding.fold(ItemsStored(1, 2, [(0, "1")])).maps == {}
    assert folding.run.maps[1].unfinished == {0}


def test_rule_10_source_that_cannot_be_read_is_tried_again():
    folding = Folding(work("source"), work("m", "source", map_over="source", max_retries=2))
    folding.begin()
    folding.succeed("source", "1")
    broken = ItemsStored(1, 1, [], Failure("TypeError", "no list"))

    folding.start("m")
    assert folding.fold(broken).delayed
    folding.fold(RetryDue(1, 0))
    folding.start("m")
    folding.fold(broken)

    assert (folding.statuses("m"), folding.state("m").attempts) == ("failed", 2)


def test_rule_10_failed_items_of_an_earlier_visit_do_not_make_the_run_partial():
    plan = plan_of(
        work("source"),
        work("m", "source", map_over="source", max_retries=1),
        choose("f", "source if n < 2", after=["m"]),
    )

    def item(view):
        if view.get("n") == 1 and view.item == 2:
            raise Fail

    simulation = simulate(plan, {"source": lambda view: (count("n")(view), [1, 2, 3])[1], "m": item})

    assert (simulation.visits("m"), simulation.run.status) == ((2,), "complete")


def test_rule_10_empty_visit_forgets_the_failed_items_of_the_one_before():
    plan = plan_of(
        work("source"),
        work("m", "source", map_over="source", max_retries=1),
        choose("f", "source if n < 2", after=["m"]),
    )
    items = {1: [1, 2], 2: []}
    behaviours = {"source": lambda view: items[count("n")(view)], "m": lambda view: _fail_on(view, 2)}

    simulation = simulate(plan, behaviours)

    assert (simulation.visits("m"), simulation.run.status) == ((2,), "complete")


def test_rule_10_expression_reads_the_results_of_a_map():
    plan = plan_of(
        work("source"), work("m", "source", map_over="source"), work("x", "m", condition="len(m) == 0")
    )

    simulation = simulate(plan, {"source": lambda view: []})

    assert simulation.visits("x") == (1,)


def fails_twice(view):
    if view.attempt < 3:
        raise Fail


def test_simulation_tells_a_run_that_is_stuck():
    simulation = Simulation(plan_of(work("a")))

    with pytest.raises(AssertionError, match="nothing is in flight"):
        simulation.admit()
