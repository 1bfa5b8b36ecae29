"""`explain` says in one sentence where a node is and why."""

from __future__ import annotations

import pytest

from graphflow.graph.flow import FlowDecision
from graphflow.graph.tasks import RunStatus
from graphflow.inputs import Begin, ItemOutcomes, ItemsStored, Started, Stop
from graphflow.rules.advance import advance, apply
from graphflow.rules.explain import explain
from tests.simulation import Simulation, To, choose, fails, plan_of, simulate, work, write


def said(simulation: Simulation, name: str) -> str:
    return explain(simulation.plan, simulation.run, name)


def begun(*nodes, **limits) -> Simulation:
    simulation = Simulation(plan_of(*nodes, **limits))
    simulation.fold(Begin())
    return simulation


def test_unknown_node_is_a_key_error():
    with pytest.raises(KeyError):
        said(begun(work("a")), "b")


def test_ready_node_waits_for_a_slot():
    simulation = begun(work("a"), max_concurrent_tasks=2)

    assert said(simulation, "a") == "a is ready and waits for one of the 2 slots (max_concurrent_tasks)"
    assert said(begun(work("a", max_concurrency=1)), "a").endswith(", or for its own max_concurrency=1")


def test_running_node():
    simulation = begun(work("a"))
    simulation.fold(Started(0, 0))

    assert said(simulation, "a") == "a is running"


def test_running_map_says_how_far_it_is():
    simulation = begun(work("s"), work("m", "s", map_over="s"))
    simulation.admit()
    simulation.behaviours["s"] = lambda view: [1, 2, 3]
    simulation.step()
    simulation.fold(Started(1, 0))
    simulation.fold(ItemsStored(1, 1, [(0, "1"), (1, "2"), (2, "3")]))
    simulation.fold(ItemOutcomes(1, 1, done=[(1, "2")]))

    assert said(simulation, "m") == "m is running: 1 of 3 items done"


def test_waiting_node_says_for_which_attempt_and_why():
    simulation = begun(work("a", max_retries=4))
    simulation.behaviours["a"] = fails()
    simulation.admit()
    simulation.step()

    assert said(simulation, "a") == "a waits for attempt 2 of 4 after Fail: boom"


def test_succeeded_node():
    assert said(simulate(plan_of(work("a"))), "a") == "a succeeded in visit 1"


def test_failed_node_says_after_how_many_attempts_and_why():
    simulation = simulate(plan_of(work("a"), work("b", retry_on_failure=False)), {"a": fails(), "b": fails()})

    assert said(simulation, "a") == "a failed after 3 attempts: Fail: boom"
    assert said(simulation, "b") == "b failed: Fail: boom"


def test_node_behind_a_failure_names_it_near_and_far():
    simulation = simulate(
        plan_of(work("a", max_retries=1), work("b", "a"), work("c", "b"), work("d", "c")), {"a": fails()}
    )

    assert said(simulation, "b") == "b never ran: a failed: Fail: boom"
    assert said(simulation, "d") == "d never ran: it waits for b, and a failed: Fail: boom"


def test_node_in_a_long_chain_is_explained_without_recursion():
    nodes = [work("n0", max_retries=1), *(work(f"n{number}", f"n{number - 1}") for number in range(1, 2_000))]
    simulation = Simulation(plan_of(*nodes), {"n0": fails()})
    simulation.finish()

    assert said(simulation, "n1999") == "n1999 never ran: it waits for n1, and n0 failed: Fail: boom"


def test_node_that_was_not_chosen():
    simulation = simulate(
        plan_of(work("a"), choose("f", "x", after=["a"]), work("x", "f"), work("y", "f"), work("z", "y"))
    )

    assert said(simulation, "y") == "y was skipped: f did not choose it"
    assert said(simulation, "z") == "z was skipped: all that it depends on was skipped"


def test_node_below_a_flow_control_that_was_skipped():
    plan = plan_of(work("a"), choose("f", "x", after=["a"], condition="never"), work("x", "f", "a"))

    assert said(simulate(plan), "x") == "x was skipped: f was skipped and chose nothing"


def test_root_that_nothing_chose():
    plan = plan_of(work("a"), choose("f", "x if never", "y", after=["a"]), work("x"), work("y"))

    assert said(simulate(plan), "x") == "x was skipped: nothing chose it: it waits to be chosen by f"


def test_node_whose_condition_was_false():
    assert (
        said(simulate(plan_of(work("a", condition="n > 3"))), "a")
        == "a was skipped: its condition was false: n > 3"
    )


def test_root_of_a_supervisor_that_was_never_named():
    plan = plan_of(
        choose("hub", "x if n == null", "y if n == 7"), work("x"), work("y"), work("join", "x", "y")
    )
    simulation = simulate(plan, {"x": write(n=1)})

    assert said(simulation, "y") == "y never ran: it starts only when it is chosen, and hub did not choose it"
    assert said(simulation, "join") == (
        "join never ran: it waits for y, which starts only when it is chosen, and hub did not choose it"
    )


def test_supervisor():
    plan = plan_of(
        choose("hub", "x if n == null"),
        choose("other", FlowDecision(next_node="x", condition="never")),
        work("x"),
    )
    simulation = simulate(plan, {"x": write(n=1)})

    assert said(simulation, "hub") == "hub decided once"
    assert said(simulation, "other") == "other never decided for anything: none of its decisions could fire"


def test_node_that_a_limit_kept_from_starting():
    simulation = simulate(plan_of(work("a"), work("b", "a"), max_total_iterations=1))

    assert said(simulation, "b") == "b never ran: it was not started: the run reached max_total_iterations=1"


def test_node_behind_one_that_still_runs():
    simulation = begun(work("a"), work("b", "a"), work("c", "b"))
    simulation.admit()

    assert said(simulation, "c") == "c has not started: it waits for a, which is running"


def test_node_that_was_stopped_in_its_first_visit():
    simulation = begun(work("a"), work("b", "a"))
    simulation.admit()
    simulation.fold(Stop(RunStatus.CANCELLED, "asked for"))

    assert said(simulation, "a") == "a was stopped in visit 1, before it came to an end"
    assert said(simulation, "b") == "b never ran: it waits for a, which was stopped before it came to an end"


def test_node_that_end_left_out():
    plan = plan_of(work("a", to=["END"]), work("b", "a"), work("c"))
    simulation = Simulation(plan, {"a": lambda view: To("END")})
    simulation.finish()

    assert said(simulation, "b") == "b never ran: it was not started before the run ended"


def test_explaining_changes_nothing():
    simulation = begun(work("a"), work("b", "a"))
    before = [state.clone() for state in simulation.run.nodes]

    said(simulation, "b")

    assert simulation.run.nodes == before
    transition = advance(simulation.plan, simulation.run, Started(0, 0), 1.0, 0.5)
    apply(simulation.run, transition, simulation.plan)
    assert said(simulation, "a") == "a is running"
