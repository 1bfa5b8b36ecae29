"""What holds for every graph in every order: the rules end, lose nothing, mix nothing, and do not care who is first."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from graphflow.errors import InvalidGraph
from graphflow.graph.flow import FlowDecision
from graphflow.graph.nodes import Node
from graphflow.inputs import Started
from graphflow.rules.advance import advance, apply
from graphflow.rules.explain import explain
from graphflow.run import NodeStatus
from tests.simulation import Behaviour, Fail, Simulation, To, choose, new_run, plan_of, work

#: Outcomes after which a run that does not end is taken for one that never will.
MAX_STEPS = 3_000
LIMITLESS = 1_000_000

quick = settings(suppress_health_check=list(HealthCheck))


@dataclass
class Spec:
    """One node of a random graph."""

    name: str
    kind: str  # work, flow, waiting, handler, supervisor
    after: list[str] = field(default_factory=list)
    #: Decisions as (targets, condition), and the default.
    decisions: list[tuple[list[str], str | None]] = field(default_factory=list)
    default: list[str] | None = None
    condition: str | None = None
    #: "never", "once" (then a retry succeeds), "always".
    fails: str = "never"
    on_error: str | None = None
    settled: bool = False
    decides: list[str] = field(default_factory=list)
    repeat: bool = False

    def _repr_pretty_(self, printer, cycle):
        """Only what differs from the defaults, so that a counterexample can be read."""
        plain = Spec(self.name, self.kind)
        values = {key: value for key, value in vars(self).items() if value != getattr(plain, key)}
        arguments = [repr(self.name), repr(self.kind), *(f"{key}={value!r}" for key, value in values.items())]
        printer.text(f"Spec({', '.join(arguments)})")

    @property
    def node(self) -> Node:
        if self.kind in ("flow", "supervisor"):
            decisions = [
                FlowDecision(next_node=targets, condition=condition, repeat=self.repeat)
                for targets, condition in self.decisions
            ]
            return choose(self.name, *decisions, after=self.after, default=self.default)
        config = {"max_retries": 2, "condition": self.condition, "on_error": self.on_error}
        return work(
            self.name,
            *self.after,
            to=self.decides,
            run_when="settled" if self.settled and self.after else "succeeded",
            **config,
        )

    def behave(self, view) -> object:
        if self.fails == "always" or (self.fails == "once" and view.attempt == 1):
            raise Fail
        if self.kind == "source":
            view.set("n", view.get("n", 0) + 1)
            return view.get("n")
        if self.kind == "supervised":
            view.set(self.name, min(view.get(self.name, 0) + 1, 2))
        if self.decides:
            return To(*self.decides)
        known = [view.result(name) for name in self.after]
        return sum(value for value in known if isinstance(value, int)) + 1


@st.composite
def graphs(draw, *, failures=True, jumps=True, wild=False, one_source=False):
    """Specs of a graph. `wild` allows jumps to nodes that run anyway, END, and handlers that lead back."""
    count = draw(st.integers(2, 6))
    specs = [Spec("n0", "source")]
    for number in range(1, count):
        earlier = [spec.name for spec in specs if spec.kind != "handler"]
        kinds = ["work", "work", "flow"] + (["waiting"] if jumps else []) + ([] if one_source else ["root"])
        kind = draw(st.sampled_from(kinds))
        spec = Spec(f"n{number}", kind)
        if kind in ("work", "flow"):
            spec.after = draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=3, unique=True))
        if kind == "work":
            spec.condition = draw(
                st.none() | st.sampled_from([f"nodes.{name} % 2 == 1" for name in spec.after])
            )
            spec.settled = draw(st.booleans()) and failures
        if kind != "flow" and failures:
            spec.fails = draw(st.sampled_from(["never", "never", "once", "always"]))
        specs.append(spec)
    for spec in [spec for spec in specs if spec.kind == "flow"]:
        draw_decisions(draw, specs, spec, wild)
    if draw(st.booleans()):
        draw_loop(draw, specs, wild)
    if failures:
        draw_handlers(draw, specs, wild)
    return specs


def draw_loop(draw, specs, wild):
    """Three passes from the source. A tame loop has no other source and waits for all that its pass has started."""
    names = [spec.name for spec in specs]
    after = [name for name in names if not any(name in spec.after for spec in specs)]
    if wild:
        after = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    elif any(spec.kind in ("root", "waiting") for spec in specs):
        return
    if "n0" in ancestors(specs, after):
        specs.append(Spec("loop", "flow", after, [(["n0"], "n < 3")]))


def draw_decisions(draw, specs, spec, wild):
    later = specs[specs.index(spec) + 1 :]
    named = [other.name for other in later if spec.name in other.after or other.kind == "waiting" or wild]
    if not named:
        return
    conditions = st.none() | st.sampled_from(
        ["n > 1", "true", "false"] + [f"nodes.{name} % 2 == 1" for name in spec.after]
    )
    if not wild:
        # What is not above the flow control may change while it decides.
        conditions = st.none() | st.sampled_from(
            ["true", "false"] + [f"nodes.{name} % 2 == 1" for name in spec.after]
        )
    targets = st.lists(
        st.sampled_from([*named, *(["END"] if wild else [])]), min_size=1, max_size=2, unique=True
    )
    spec.decisions = draw(st.lists(st.tuples(targets, conditions), min_size=1, max_size=3))
    spec.default = draw(st.none() | targets)


def draw_handlers(draw, specs, wild):
    for spec in [spec for spec in specs if spec.kind in ("work", "root", "waiting")]:
        back = spec.name if spec.kind != "root" else None
        choices = [None, None, "passive", "back"] + (["above"] if wild else [])
        how = draw(st.sampled_from(choices))
        if how is None or (how == "back" and back is None):
            continue
        if how == "above":
            spec.on_error = "n0"
            continue
        spec.on_error = f"h_{spec.name}"
        specs.append(Spec(spec.on_error, "handler", decides=[spec.name] if how == "back" else []))
        if draw(st.booleans()):
            specs.append(
                Spec(f"c_{spec.name}", "work", [spec.name, spec.on_error], settled=draw(st.booleans()))
            )


@st.composite
def supervised(draw):
    """A graph without in-graph choices beside supervisors over nodes that they alone start."""
    specs = draw(graphs(jumps=False))
    count = draw(st.integers(1, 3))
    names = [f"s{number}" for number in range(count)]
    specs += [
        Spec(name, "supervised", fails=draw(st.sampled_from(["never", "once", "always"]))) for name in names
    ]
    specs += [Spec("after_s", "work", draw(st.lists(st.sampled_from(names), min_size=1, unique=True)))]
    reads = [
        "nodes.n0 % 2 == 0",
        "n0 == null",
        *(f"{name} < 2" for name in names),
        *(f"{name} == null" for name in names),
    ]
    targets = st.lists(st.sampled_from([*names, *names, "n1", "END"]), min_size=1, max_size=2, unique=True)
    decisions = st.lists(st.tuples(targets, st.none() | st.sampled_from(reads)), min_size=1, max_size=3)
    for number in range(draw(st.integers(1, 2))):
        default = draw(st.none() | targets)
        specs.append(Spec(f"hub{number}", "supervisor", [], draw(decisions), default))
    return specs


def ancestors(specs, names):
    after = {spec.name: spec.after for spec in specs}
    found = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += after[name]
    return found


def compiled(specs, slots=100):
    """The plan, or None for a graph that is refused."""
    try:
        return plan_of(
            *(spec.node for spec in specs), max_concurrent_tasks=slots, max_total_iterations=LIMITLESS
        )
    except InvalidGraph:
        return None


def behaviours(specs) -> dict[str, Behaviour]:
    return {spec.name: spec.behave for spec in specs}


def simulated(specs, plan, seed=0, *, checks=False, batches=False) -> Simulation:
    rng = random.Random(seed)
    cut = (lambda: rng.randint(1, 5)) if batches else (lambda: 1)
    simulation = Simulation(plan, behaviours(specs), pick=rng.randrange, cut=cut, checks=checks)
    step, steps = simulation.step, 0

    def counted():
        nonlocal steps
        steps += 1
        assert steps < MAX_STEPS, "the run does not end"
        step()

    simulation.step = counted
    simulation.finish()
    return simulation


def run_before(simulation):
    """The simulated run as it was before its first input."""
    run = new_run(simulation.plan)
    run.task = simulation.run.task
    return run


def summary(simulation):
    """Everything that may not depend on the order: statuses, results, state."""
    nodes = {}
    for node, state in zip(simulation.plan.nodes, simulation.run.nodes, strict=True):
        result = state.result if state.status is NodeStatus.SUCCEEDED else None
        nodes[node.name] = (state.status.value, result)
    state = {key: text for key, text in simulation.run.state.items() if key != "errors"}
    return simulation.run.status.value, nodes, state


@quick
@given(graphs(wild=True), st.integers(0, 2**32), st.booleans())
def test_every_run_ends_without_a_limit_and_every_node_is_settled_or_explained(specs, seed, batches):
    plan = compiled(specs)
    if plan is None:
        return

    simulation = simulated(specs, plan, seed, checks=True, batches=batches)

    assert_explained(simulation)


@quick
@given(supervised(), st.integers(0, 2**32))
def test_supervised_runs_reach_a_fixed_point_without_a_limit(specs, seed):
    plan = compiled(specs)
    if plan is None:
        return

    simulation = simulated(specs, plan, seed, checks=True)

    assert_explained(simulation)


def assert_explained(simulation):
    for node, state in zip(simulation.plan.nodes, simulation.run.nodes, strict=True):
        sentence = explain(simulation.plan, simulation.run, node.name)
        assert sentence.startswith(node.name)
        assert "waits for the run to go on" not in sentence
        if not state.settled:
            assert "never" in sentence or "stopped" in sentence


@quick
@given(
    graphs(),
    st.lists(st.integers(0, 2**32), min_size=2, max_size=2),
    st.booleans(),
    st.sampled_from([1, 2, 100]),
)
def test_statuses_and_values_depend_neither_on_order_nor_on_batches_nor_on_slots(
    specs, seeds, batches, slots
):
    plan, narrow = compiled(specs), compiled(specs, slots)
    if plan is None or narrow is None:
        return

    first = simulated(specs, plan, seeds[0])
    second = simulated(specs, narrow, seeds[1], batches=batches)

    assert summary(first) == summary(second)


@quick
@given(supervised(), st.lists(st.integers(0, 2**32), min_size=2, max_size=2), st.booleans())
def test_what_supervised_runs_come_to_does_not_depend_on_the_order(specs, seeds, batches):
    specs = [
        replace(spec, decisions=[(_without_n1(targets), text) for targets, text in spec.decisions])
        for spec in specs
    ]
    specs = [replace(spec, default=spec.default and _without_n1(spec.default)) for spec in specs]
    plan = compiled(specs)
    if plan is None:
        return

    first, second = simulated(specs, plan, seeds[0]), simulated(specs, plan, seeds[1], batches=batches)

    assert summary(first) == summary(second)


def _without_n1(targets):
    """A supervisor that starts a node of the graph again is order-free too, but its END may come at another moment."""
    return [name for name in targets if name != "n1"] or ["s0"]


class Snapshots(Simulation):
    """Notes the results that a node's dependencies had when it became ready."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = {}

    def _take_up(self, transition):
        super()._take_up(transition)
        for index, _ in transition.ready:
            node = self.plan.nodes[index]
            states = [self.run.nodes[place] for place in node.dependencies]
            texts = [state.result for state in states if state.settled_as is NodeStatus.SUCCEEDED]
            self.seen[node.name] = {int(text) for text in texts if text not in (None, "null")}


#: The next pass is at n1 when the result of the one before reaches n3 by way of n2.
OVERTAKEN = [
    Spec("n0", "source"),
    Spec("n1", "work", ["n0"]),
    Spec("n2", "work", ["n1"]),
    Spec("other", "work", ["n0"]),
    Spec("n3", "work", ["n2", "n0"]),
    Spec("loop", "flow", ["n0"], [(["n0"], "n < 3")]),
]


@quick
@given(graphs(one_source=True, jumps=False, wild=True), st.integers(0, 2**32), st.integers(1, 3))
@example(OVERTAKEN, 0, 1)
def test_no_node_becomes_ready_on_a_mix_of_old_and_new_results(specs, seed, failing_pass):
    """All results of one pass of a loop carry its number; what a node starts from must be of one pass."""
    kept = [
        spec for spec in specs if spec.kind in ("source", "work", "flow") and not spec.name.startswith("c_")
    ]
    specs = [replace(spec, condition=None, on_error=None, default=None) for spec in kept]
    for spec in specs:
        # A jump starts its target whatever its dependencies did: that is its meaning.
        dependents = {other.name for other in specs if spec.name in other.after} | {"n0"}
        spec.decisions = [decision for decision in spec.decisions if dependents.issuperset(decision[0])]
    plan = compiled(specs)
    if plan is None:
        return
    mixed = []

    def body(spec):
        def behaviour(view):
            if spec.kind == "source":
                return spec.behave(view)
            seen = simulation.seen[spec.name]
            if len(seen) > 1 and not spec.settled:
                mixed.append((spec.name, seen))
            if spec.fails == "always" and failing_pass in seen:
                raise Fail(final=True)
            return max(seen, default=None)

        return behaviour

    rng = random.Random(seed)
    simulation = Snapshots(plan, {spec.name: body(spec) for spec in specs}, pick=rng.randrange)
    simulation.finish()

    assert mixed == []


@quick
@given(graphs(wild=True), st.integers(0, 2**32), st.integers(1, 3))
def test_what_starts_with_an_outcome_is_as_if_it_was_told_to(specs, seed, room):
    plan = compiled(specs)
    if plan is None:
        return
    simulation = simulated(specs, plan, seed)

    run = run_before(simulation)
    for outcome, now, draw in simulation.inputs:
        at_once, one_by_one = copy.deepcopy(run), copy.deepcopy(run)
        transition = advance(plan, at_once, copy.deepcopy(outcome), now, draw, room=room)
        apply(at_once, transition, plan)
        told = []
        for step in (outcome, *(Started(node, place) for node, place in transition.ready[:room])):
            change = advance(plan, one_by_one, copy.deepcopy(step), now, draw)
            apply(one_by_one, change, plan)
            told += change.events

        assert at_once == one_by_one
        assert transition.events == told
        apply(run, advance(plan, run, outcome, now, draw), plan)


@quick
@given(graphs(wild=True), st.integers(0, 2**32))
def test_replaying_the_inputs_gives_equal_transitions(specs, seed):
    plan = compiled(specs)
    if plan is None:
        return
    simulation = simulated(specs, plan, seed)

    run = run_before(simulation)
    for (outcome, now, draw), transition in zip(simulation.inputs, simulation.transitions, strict=True):
        replayed = advance(plan, run, copy.deepcopy(outcome), now, draw)
        assert replayed == transition
        apply(run, replayed, plan)

    assert (run.status, run.nodes, run.state) == (
        simulation.run.status,
        simulation.run.nodes,
        simulation.run.state,
    )
