"""The counterexamples to rules that are simpler than rule 17: each graph comes to what a run of the inner graph comes to.

`s` is the sub-graph, `d` depends on it. Expanded into the graph around it, each of these would end otherwise.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from graphflow.graph.nodes import Node
from graphflow.inputs import Begin, Crashed, Entered, Started
from graphflow.planning.plan import Plan
from graphflow.rules.advance import advance, apply
from graphflow.rules.crashes import may_have_been_in_flight
from graphflow.rules.explain import explain
from tests.simulation import (
    ORDERS,
    Inner,
    Simulation,
    To,
    choose,
    count,
    fails,
    new_run,
    plan_of,
    simulate,
    sub,
    work,
    write,
)


def s(*nodes: Node, after: tuple[str, ...] = (), limits: dict[str, Any] | None = None, **config: Any) -> Node:
    return sub("s", Inner(*nodes, **(limits or {})), *after, **config)


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> Any:
    return ORDERS[request.param]


def played(plan: Plan, behaviours: dict[str, Any] | None = None, *, order: Any) -> Simulation:
    return simulate(plan, behaviours, pick=order)


def test_a_loop_inside_ends_before_anything_below_the_sub_graph_starts(order: Any) -> None:
    plan = plan_of(s(work("x"), work("y", "x"), choose("flow", "x if n < 3", after=["y"])), work("d", "s"))

    simulation = played(plan, {"s/x": count("n")}, order=order)

    assert simulation.run.status.value == "complete"
    assert simulation.visits("s/x", "s/y", "s", "d") == (3, 3, 1, 1)


def test_a_failure_outside_is_none_above_what_cleans_up_inside(order: Any) -> None:
    plan = plan_of(
        work("a", max_retries=1), s(work("x"), work("clean", "x", run_when="settled"), after=("a",))
    )

    simulation = played(plan, {"a": fails()}, order=order)

    assert simulation.run.status.value == "failed"
    assert simulation.visits("s", "s/x", "s/clean") == (0, 0, 0)


def test_a_sub_graph_that_is_skipped_does_not_wake_its_supervisors(order: Any) -> None:
    plan = plan_of(
        work("a"),
        s(work("x"), work("t"), choose("hub", "t"), after=("a",), condition="false"),
        work("d", "s"),
    )

    simulation = played(plan, order=order)

    assert simulation.run.status.value == "complete"
    assert (simulation.status("s"), simulation.status("d")) == ("skipped", "skipped")
    assert simulation.visits("s/x", "s/t", "s/hub") == (0, 0, 0)


def test_a_supervisor_inside_that_never_fires_holds_nobody_up(order: Any) -> None:
    plan = plan_of(s(work("x"), work("t"), choose("hub", "t if false")), work("d", "s"))

    simulation = played(plan, order=order)

    assert simulation.run.status.value == "complete"
    assert simulation.visits("s/t", "s", "d") == (0, 1, 1)


def test_a_supervisor_inside_decides_when_its_graph_is_idle_whatever_goes_on_outside() -> None:
    plan = plan_of(s(work("x"), work("t"), choose("hub", "t")), work("d", "s"), work("other"))
    simulation = Simulation(plan, pick=lambda number: number - 1, checks=True)

    simulation.finish()

    assert simulation.run.status.value == "complete"
    assert simulation.visits("s/t", "d", "other") == (1, 1, 1)


def test_end_inside_ends_the_graph_in_which_it_stands(order: Any) -> None:
    plan = plan_of(s(work("x"), choose("flow", "END", after=["x"]), work("slow", "flow")), work("d", "s"))

    simulation = played(plan, order=order)

    assert simulation.run.status.value == "complete"
    assert simulation.visits("s/slow", "d") == (0, 1)


def test_a_graph_of_which_all_ends_were_skipped_has_succeeded_with_null(order: Any) -> None:
    plan = plan_of(s(work("x"), work("end", "x", condition="false")), work("d", "s"))

    simulation = played(plan, order=order)

    assert (simulation.status("s"), simulation.state("s").result, simulation.status("d")) == (
        "succeeded",
        "null",
        "succeeded",
    )


def test_a_handler_inside_that_was_not_needed_is_nothing_to_wait_for(order: Any) -> None:
    plan = plan_of(s(work("x", on_error="mend"), work("mend", to=["x"])), work("d", "s"))

    simulation = played(plan, order=order)

    assert simulation.run.status.value == "complete"
    assert simulation.visits("s/mend", "s", "d") == (0, 1, 1)


def test_what_failed_in_the_first_attempt_runs_anew_in_the_second(order: Any) -> None:
    plan = plan_of(s(work("w"), work("x", "w", max_retries=1), max_retries=2), work("d", "s"))

    simulation = played(plan, {"s/x": fails(1), "s/w": count("n")}, order=order)

    assert simulation.run.status.value == "complete"
    assert simulation.visits("s/w", "s/x", "s", "d") == (2, 2, 1, 1)
    assert simulation.value("s/n") == 1
    assert simulation.state("s").attempts == 2


def test_a_handler_outside_leads_back_into_a_graph_that_begins_anew(order: Any) -> None:
    plan = plan_of(s(work("x", max_retries=1), on_error="mend"), work("mend", to=["s"]), work("d", "s"))

    simulation = played(plan, {"s/x": fails(1), "mend": lambda view: To("s")}, order=order)

    assert simulation.run.status.value == "complete"
    assert simulation.visits("s", "s/x", "d") == (2, 2, 1)
    assert [entry["node"] for entry in simulation.value("errors")] == ["s"]


@pytest.mark.parametrize("seed", range(20))
def test_two_visits_of_a_sub_graph_never_overlap(seed: int) -> None:
    plan = plan_of(work("a"), s(work("x"), work("y", "x"), after=("a",)), work("j", to=["s"]), work("d", "s"))
    under_way: list[int] = []

    def notes(view: Any) -> None:
        under_way.append(view.run.nodes[plan.by_name["s"]].visits)

    simulation = Simulation(
        plan,
        {"j": lambda view: To("s"), "s/x": notes, "s/y": notes},
        pick=random.Random(seed).randrange,
        checks=True,
    )
    simulation.finish()

    assert under_way in ([1, 1, 2, 2], [1, 1])
    assert simulation.run.status.value == "complete"


def test_a_limit_inside_fails_the_sub_graph_and_the_rest_goes_on(order: Any) -> None:
    plan = plan_of(
        s(work("x"), choose("flow", "x", after=["x"]), limits={"max_total_iterations": 2}),
        work("d", "s", run_when="settled"),
    )

    simulation = played(plan, order=order)

    assert simulation.run.status.value == "partial"
    assert simulation.visits("s/x", "d") == (2, 1)
    assert simulation.state("s").failure.summary == (
        "SubgraphFailed: sub-graph 's' reached max_total_iterations=2"
    )


def test_a_limit_around_lets_a_sub_graph_under_way_come_to_its_end(order: Any) -> None:
    """A chain of limits would have the supervisors inside fire and start nothing, for ever."""
    inner = Inner(work("x"), work("t"), work("u", "t"), choose("hub", "t"))
    plan = plan_of(sub("s", inner), work("a", "s"), work("b", "a"), max_total_iterations=2)

    simulation = played(plan, order=order)

    assert simulation.run.status.value == "failed"
    assert simulation.visits("s/x", "s/t", "s/u", "a", "b") == (1, 1, 1, 1, 0)
    assert simulation.status("s") == "succeeded"


def test_max_visits_inside_counts_from_the_entering(order: Any) -> None:
    plan = plan_of(
        work("begin"),
        s(work("x", max_visits=1), after=("begin",)),
        choose("again", "begin if n < 3", after=["s"]),
    )

    simulation = played(plan, {"begin": count("n")}, order=order)

    assert simulation.run.status.value == "complete"
    assert simulation.visits("s", "s/x") == (3, 3)


def test_what_changes_outside_after_the_entering_is_not_seen(order: Any) -> None:
    seen: list[Any] = []
    inner = Inner(work("x"), work("y", "x"))
    plan = plan_of(work("a"), sub("s", inner, "a", inputs={"given": "key"}), work("b", "a"))

    def sees(view: Any) -> None:
        seen.append(view.get("given"))

    played(plan, {"a": write(key=1), "b": write(key=2), "s/x": sees, "s/y": sees}, order=order)

    assert seen == [1, 1]


def test_a_graph_in_which_something_failed_makes_the_run_partial(order: Any) -> None:
    deep = Inner(work("x"), work("y", max_retries=1))
    plan = plan_of(s(sub("deep", deep)), work("d", "s"))

    simulation = played(plan, {"s/deep/y": fails()}, order=order)

    assert simulation.run.status.value == "partial"
    assert (simulation.status("s"), simulation.status("d")) == ("succeeded", "succeeded")
    assert simulation.run.error == "node 's/deep/y' failed: Fail: boom"


def test_an_input_that_is_not_there_fails_the_sub_graph(order: Any) -> None:
    plan = plan_of(sub("s", Inner(work("x")), inputs={"given": "missing"}))

    simulation = played(plan, order=order)

    assert simulation.run.status.value == "failed"
    assert "inputs 'given' of 's': there is no 'missing'" in str(simulation.run.error)


# Crashes, explanations


def test_after_a_death_the_nodes_inside_are_counted_and_the_sub_graph_is_not() -> None:
    plan = plan_of(s(work("x")))
    run = new_run(plan)
    for incoming in (Begin(), Entered(0), Started(1, 0)):
        apply(run, advance(plan, run, incoming, 1, 0.5), plan)

    assert may_have_been_in_flight(plan, run).nodes == [plan.by_name["s/x"]]
    apply(run, advance(plan, run, Crashed(), 2, 0.5), plan)

    assert [run.nodes[plan.by_name[name]].crashes for name in ("s", "s/x")] == [0, 1]


def test_explanations_name_the_path() -> None:
    plan = plan_of(work("a"), s(work("x"), work("y", "x"), after=("a",)))
    run = new_run(plan)
    apply(run, advance(plan, run, Begin(), 1, 0.5), plan)

    assert explain(plan, run, "s/x") == "s/x has not started: s, in whose graph it is, was not entered"
    simulation = Simulation(plan, checks=True)
    simulation.fold(Begin())
    simulation.admit()
    simulation.step()
    assert explain(plan, simulation.run, "s") == (
        "s is running: 0 of 2 nodes inside have settled, s/x is active"
    )
