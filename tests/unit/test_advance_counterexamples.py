"""Graphs on which simpler rules fail, each in two arrival orders: the oldest thing in flight first, the newest first."""

from __future__ import annotations

import pytest

from graphflow import events
from graphflow.errors import InvalidGraph
from graphflow.graph.flow import FlowDecision
from tests.simulation import (
    ORDERS,
    Fail,
    Simulation,
    To,
    choose,
    count,
    fails,
    plan_of,
    simulate,
    work,
)


def pytest_generate_tests(metafunc):
    if "pick" in metafunc.fixturenames:
        metafunc.parametrize("pick", ORDERS.values(), ids=ORDERS.keys())


PENDING = "subtasks != null and len([st for st in subtasks if st['status'] == 'pending']) > 0"
ALL_DONE = "len(completed_subtasks) == len(subtasks)"


# Loops


def test_join_of_a_short_and_a_long_way_runs_once_per_pass_of_a_loop(pick):
    plan = plan_of(
        work("plan"),
        work("short", "plan"),
        work("l1", "plan"),
        work("l2", "l1"),
        work("write", "short", "l2", max_visits=5),
        choose("again", "plan if passes < 4", "END", after=["write"]),
    )
    read = []

    def join(view):
        read.append([view.result(name) for name in ("short", "l2")])
        return count("passes")(view)

    passes = {name: lambda view: view.visit for name in ("plan", "short", "l1", "l2")}
    simulation = simulate(plan, passes | {"write": join}, pick=pick)

    assert read == [[1, 1], [2, 2], [3, 3], [4, 4]]
    assert (simulation.run.status, simulation.visits("write")) == ("complete", (4,))


def test_join_waits_for_a_branch_that_the_next_pass_has_overtaken(pick):
    plan = plan_of(
        work("plan"),
        work("quick", "plan"),
        work("slow", "plan", "quick"),
        work("join", "plan", "slow"),
        choose("again", "plan if n < 3", after=["quick"]),
    )
    started_from = []

    def slow(view):
        return view.result("plan")

    simulation = Simulation(plan, {"plan": count("n"), "slow": slow}, pick=pick)
    fold = simulation.fold

    def watched(outcome):
        transition = fold(outcome)
        if any(plan.nodes[index].name == "join" for index, _ in transition.ready):
            nodes = [simulation.state(name) for name in ("plan", "slow")]
            started_from.append(tuple(int(node.result) for node in nodes))
        return transition

    simulation.fold = watched
    simulation.finish()

    assert started_from[-1] == (3, 3)
    assert all(left == right for left, right in started_from)


def test_function_that_joins_branches_sees_null_for_the_one_not_taken_in_every_pass(pick):
    plan = plan_of(
        work("plan"),
        choose("branch", "x if side == 'x'", "y", after=["plan"]),
        work("x", "branch"),
        work("y", "branch"),
        work("join", "x", "y"),
        choose("again", "plan if side == 'y'", "END", after=["join"]),
    )
    read = []

    def join(view):
        read.append((view.result("x"), view.result("y")))

    behaviours = {
        "plan": lambda view: view.set("side", "y" if view.visit == 1 else "x"),
        "x": lambda view: f"x{view.visit}",
        "y": lambda view: f"y{view.visit}",
        "join": join,
    }
    simulation = simulate(plan, behaviours, pick=pick)

    assert read == [(None, "y1"), ("x1", None)]
    assert (simulation.status("x"), simulation.status("y")) == ("succeeded", "skipped")


def test_two_producers_that_jump_to_one_running_consumer_lose_no_wake_up(pick):
    plan = plan_of(
        work("p1", to=["consumer"]), work("p2", to=["consumer"]), work("consumer"), max_concurrent_tasks=3
    )
    seen = []

    def consume(view):
        seen.append(sorted(key for key in ("p1", "p2") if view.get(key)))

    behaviours = {
        "p1": lambda view: (view.set("p1", True), To("consumer"))[1],
        "p2": lambda view: (view.set("p2", True), To("consumer"))[1],
        "consumer": consume,
    }
    simulation = simulate(plan, behaviours, pick=pick)

    assert seen[-1] == ["p1", "p2"]
    assert simulation.run.status == "complete"


def test_requests_while_the_consumer_runs_are_one(pick):
    producers = [f"p{number}" for number in range(4)]
    plan = plan_of(*(work(name, to=["consumer"]) for name in producers), work("consumer"))

    simulation = simulate(
        plan, {name: lambda view: To("consumer") for name in producers}, pick=pick, cut=lambda: 4
    )

    assert simulation.visits("consumer") == (2,)


def test_flow_controls_that_jump_to_each_other_are_refused(pick):
    with pytest.raises(InvalidGraph, match="for ever"):
        plan_of(work("a"), choose("f", "g", after=["a"]), choose("g", "f", after=["a"]))


def test_writer_and_critic_by_jumps_alone_are_refused_with_the_remedy(pick):
    with pytest.raises(InvalidGraph, match="start=True"):
        plan_of(work("writer", to=["critic"]), work("critic", to=["writer"]))


def test_writer_and_critic_run_when_the_writer_starts(pick):
    plan = plan_of(work("writer", to=["critic"], start=True), work("critic", to=["writer"]))
    behaviours = {
        "writer": lambda view: To("critic"),
        "critic": lambda view: To("writer") if view.visit < 3 else To("END"),
    }

    simulation = simulate(plan, behaviours, pick=pick)

    assert (simulation.run.status, simulation.visits("writer", "critic")) == ("complete", (3, 3))


# Branches


@pytest.mark.parametrize("order", [["f", "b"], ["b", "f"]])
def test_node_that_a_flow_control_did_not_choose_never_runs_though_its_other_dependency_succeeds(pick, order):
    plan = plan_of(
        work("root"),
        choose("f", "x", after=["root"]),
        work("b"),
        work("x", *order),
        work("y", *order),
    )

    simulation = simulate(plan, pick=pick)

    assert simulation.visits("x", "y") == (1, 0)
    assert (simulation.status("y"), simulation.run.status) == ("skipped", "complete")


def test_branch_and_merge_over_roots_that_wait_to_be_chosen(pick):
    plan = plan_of(
        work("root"),
        choose("f", "y if wanted", "x", after=["root"]),
        work("x"),
        work("y"),
        work("join", "x", "y"),
    )

    simulation = simulate(plan, pick=pick)

    assert simulation.visits("x", "y", "join") == (1, 0, 1)
    assert simulation.run.status == "complete"


def test_skipped_flow_control_chooses_nothing(pick):
    plan = plan_of(
        work("a"),
        choose("outer", "other", after=["a"]),
        choose("it", "x", after=["outer"]),
        work("other", "outer"),
        work("b"),
        work("x", "it", "b"),
        work("y", "it", "b"),
    )

    simulation = simulate(plan, pick=pick)

    assert simulation.visits("x", "y", "other") == (0, 0, 1)
    assert {simulation.status(name) for name in ("it", "x", "y")} == {"skipped"}


def test_list_of_targets_runs_the_other_one_though_its_dependency_started_the_first(pick):
    plan = plan_of(work("a"), choose("f", "x, y", after=["a"]), work("x", "a"), work("y"))

    simulation = simulate(plan, pick=pick)

    assert simulation.visits("x", "y") == (1, 1)
    assert simulation.run.status == "complete"


def test_failure_behind_a_flow_control_is_a_failed_run_not_a_partial_one(pick):
    plan = plan_of(work("plan"), choose("f", "work", after=["plan"]), work("work", "f", max_retries=1))

    simulation = simulate(plan, {"work": fails()}, pick=pick)

    assert simulation.run.status == "failed"
    assert "'work' failed" in simulation.run.error


# Joins: nothing waits for ever


def test_join_with_a_skipped_parent_runs(pick):
    plan = plan_of(work("a"), work("b", condition="wanted"), work("join", "a", "b"))

    simulation = simulate(plan, pick=pick)

    assert (simulation.status("b"), simulation.status("join")) == ("skipped", "succeeded")


def test_join_of_skipped_parents_is_skipped(pick):
    plan = plan_of(work("a", condition="wanted"), work("b", condition="wanted"), work("join", "a", "b"))

    simulation = simulate(plan, pick=pick)

    assert (simulation.status("join"), simulation.run.status) == ("skipped", "complete")


def test_join_with_an_empty_map_runs(pick):
    plan = plan_of(work("a"), work("m", "a", map_over="a"), work("b"), work("join", "m", "b"))

    simulation = simulate(plan, {"a": lambda view: []}, pick=pick)

    assert (simulation.status("m"), simulation.status("join")) == ("succeeded", "succeeded")
    assert simulation.run.status == "complete"


def test_join_with_a_failed_parent_does_not_run_and_the_run_ends(pick):
    plan = plan_of(work("a"), work("b", max_retries=1), work("join", "a", "b"))

    simulation = simulate(plan, {"b": fails()}, pick=pick)

    assert (simulation.status("join"), simulation.run.status) == ("pending", "failed")


def test_join_that_runs_when_settled_runs_beside_a_failed_parent(pick):
    plan = plan_of(work("a"), work("b", max_retries=1), work("join", "a", "b", run_when="settled"))

    simulation = simulate(plan, {"b": fails()}, pick=pick)

    assert (simulation.visits("join"), simulation.run.status) == ((1,), "partial")


def test_clean_up_runs_once_though_a_node_between_it_and_the_failure_never_can(pick):
    plan = plan_of(
        work("a"),
        work("b", max_retries=1),
        work("between", "a", "b"),
        work("slow", "a"),
        work("clean", "between", "slow", run_when="settled"),
    )

    simulation = simulate(plan, {"b": fails()}, pick=pick)

    assert (simulation.status("between"), simulation.visits("clean")) == ("pending", (1,))


def test_join_does_not_mix_the_result_of_a_former_pass_with_a_new_one_when_a_branch_fails(pick):
    plan = plan_of(
        work("plan"),
        work("risky", "plan", max_retries=1),
        work("after", "risky"),
        work("safe", "plan"),
        work("join", "after", "safe", to=["plan"]),
    )
    read = []

    def join(view):
        read.append((view.result("after"), view.result("safe")))
        return To("plan")

    numbers = {name: lambda view: view.visit for name in ("after", "safe")}
    simulation = simulate(plan, numbers | {"risky": fails(2), "join": join}, pick=pick)

    assert read == [(1, 1)]
    assert simulation.run.status == "partial"


# Supervisors


@pytest.mark.parametrize("repeat", [False, True])
def test_supervisor_whose_target_has_a_false_condition_ends(pick, repeat):
    plan = plan_of(
        work("root"),
        choose("hub", FlowDecision(next_node="x", condition="root == null", repeat=repeat)),
        work("x", condition="never"),
    )

    simulation = simulate(plan, pick=pick)

    assert (simulation.status("x"), len(simulation.told(events.NodeSkipped))) == ("skipped", 1)
    assert simulation.run.status == "complete"


def test_repeated_decision_of_a_supervisor_fires_as_long_as_it_holds(pick):
    plan = plan_of(
        choose("hub", FlowDecision(next_node="x", condition="n == null or n < 3", repeat=True)), work("x")
    )

    simulation = simulate(plan, {"x": count("n")}, pick=pick)

    assert (simulation.visits("x"), simulation.run.status) == ((3,), "complete")


def test_default_handler_that_counts_in_a_key_no_condition_reads_runs_once(pick):
    plan = plan_of(choose("hub", "x if wanted", default="handler"), work("x"), work("handler"))

    simulation = simulate(plan, {"handler": count("handled")}, pick=pick)

    assert (simulation.visits("x", "handler"), simulation.value("handled")) == ((0, 1), 1)
    assert simulation.run.status == "complete"


# The naive parallel agent


def naive_plan(max_total_iterations=50):
    names = [f"processor_{number}" for number in range(3)]
    return plan_of(
        choose(
            "hub",
            *(FlowDecision(next_node=name, condition=PENDING) for name in names),
            FlowDecision(next_node="aggregator", condition=ALL_DONE),
            default="splitter",
        ),
        work("splitter", max_retries=2),
        *(work(name, "splitter", max_retries=2) for name in names),
        work("aggregator", *names, condition=ALL_DONE),
        max_concurrent_tasks=3,
        max_total_iterations=max_total_iterations,
    )


def naive_behaviours(data):
    def split(view):
        if data is None:
            raise Fail("TypeError: data is None")
        chunks = [data[start : start + 3] for start in range(0, len(data), 3)]
        view.set("subtasks", [{"data": chunk, "status": "pending"} for chunk in chunks])
        view.set("completed_subtasks", [])

    def process(view):
        subtasks = view.get("subtasks")
        pending = [subtask for subtask in subtasks if subtask["status"] == "pending"]
        if pending:
            pending[0].update(status="completed", results=[number * 2 for number in pending[0]["data"]])
            view.set("subtasks", subtasks)
            view.set("completed_subtasks", [*view.get("completed_subtasks"), pending[0]])

    def aggregate(view):
        view.set(
            "final", [number for subtask in view.get("completed_subtasks") for number in subtask["results"]]
        )

    return {
        "splitter": split,
        "aggregator": aggregate,
        **{f"processor_{number}": process for number in range(3)},
    }


def test_naive_parallel_agent_takes_eleven_node_runs(pick):
    simulation = simulate(naive_plan(), naive_behaviours(list(range(20))), pick=pick)

    assert (simulation.run.status, simulation.run.iterations) == ("complete", 11)
    assert simulation.value("final") == list(range(0, 40, 2))
    assert simulation.visits("splitter", "processor_0", "processor_1", "processor_2", "aggregator") == (
        1,
        3,
        3,
        3,
        1,
    )


@pytest.mark.parametrize(("limit", "status", "runs"), [(50, "failed", 50), (500, "complete", 338)])
@pytest.mark.parametrize("order", ["oldest first", pytest.param("newest first", marks=pytest.mark.long)])
def test_naive_parallel_agent_on_a_thousand_items_needs_338_node_runs(order, limit, status, runs):
    simulation = Simulation(naive_plan(limit), naive_behaviours(list(range(1000))), pick=ORDERS[order])
    run = simulation.finish()

    assert (run.status, run.iterations) == (status, runs)
    assert run.error == (None if status == "complete" else "the run reached max_total_iterations=50")


def test_naive_parallel_agent_whose_splitter_fails_names_it_at_once(pick):
    simulation = simulate(naive_plan(), naive_behaviours(None), pick=pick)

    assert simulation.run.status == "failed"
    assert simulation.run.error == "node 'splitter' failed: Fail: TypeError: data is None"
    assert (simulation.run.iterations, len(simulation.told(events.DecisionDropped))) == (1, 1)


def test_naive_parallel_agent_whose_processor_changes_nothing_is_stalled(pick):
    behaviours = naive_behaviours(list(range(20)))
    idle = {f"processor_{number}": lambda view: None for number in range(3)}

    simulation = simulate(naive_plan(), behaviours | idle, pick=pick)

    assert simulation.run.status == "failed"
    assert "stalled" in simulation.run.error
    assert f"hub -> processor_0: {PENDING}" in simulation.run.error
    assert len(simulation.run.held) == 3
