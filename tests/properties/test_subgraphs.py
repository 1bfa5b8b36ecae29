"""A sub-graph comes to what a run of its graph comes to (rule 17).

The oracle is the same graph with each sub-graph as one opaque module, whose body runs the inner graph as a run of its
own. Tame graphs are compared in different random orders. In wild ones, whose values depend on the order, the order inside
is the same for each entering: who is next follows from its place alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from zlib import crc32

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphflow.codec import decode_plain, encode
from graphflow.errors import EvaluationError, InvalidGraph
from graphflow.expressions import parse_expression
from graphflow.graph.nodes import Node
from graphflow.graph.tasks import RunStatus
from graphflow.planning.plan import bits
from graphflow.rules.draft import Draft
from graphflow.rules.ending import end_result
from graphflow.run import NodeStatus
from tests.properties.test_advance_properties import LIMITLESS, MAX_STEPS, Spec, graphs, supervised
from tests.simulation import Fail, Inner, Opaque, Simulation, plan_of, sub, work

quick = settings(suppress_health_check=list(HealthCheck))


@dataclass
class Nest:
    """A graph with the graphs that some of its nodes are, by the names of these."""

    specs: list[Spec]
    inner: dict[str, Nest] = field(default_factory=dict)
    #: Attempts of the sub-graph, what it is given, the names that fail in its first attempt only.
    retries: int = 1
    given: str = "1 == 1"
    fails_first: list[str] = field(default_factory=list)
    limit: int = LIMITLESS

    @property
    def graph(self) -> Inner:
        return Inner(*(self.node(spec) for spec in self.specs), max_total_iterations=self.limit)

    def node(self, spec: Spec, *, opaque: bool = False) -> Node:
        nest = self.inner.get(spec.name)
        if nest is None:
            return spec.node
        config = {
            "condition": spec.condition,
            "on_error": spec.on_error,
            "run_when": "settled" if spec.settled and spec.after else "succeeded",
            "max_retries": nest.retries,
        }
        if opaque:
            return work(spec.name, *spec.after, **config)
        given, taken = {"given": nest.given}, {f"{spec.name}_n": "n", f"{spec.name}_sum": "[n0, n]"}
        return sub(spec.name, nest.graph, *spec.after, **config, inputs=given, outputs=taken)


@st.composite
def nests(draw, depth, *, wild=False, supervisors=True):
    with_supervisors = supervisors and draw(st.integers(0, 99)) < 35
    specs = draw(supervised() if with_supervisors and not wild else graphs(wild=wild))
    nest = Nest(specs)
    # What a limit lets start depends on who is first.
    if wild and draw(st.integers(0, 99)) < 15:
        nest.limit = draw(st.integers(1, 6))
    if not depth:
        return nest
    able = [spec.name for spec in specs if spec.kind == "work" and not spec.decides]
    for name in draw(st.lists(st.sampled_from(able), min_size=1, max_size=2, unique=True)) if able else []:
        inner = draw(nests(depth - 1, wild=wild))
        inner.retries = draw(st.integers(1, 2))
        after = next(spec.after for spec in specs if spec.name == name)
        inner.given = draw(st.sampled_from(["1 == 1", *(f"nodes.{above} % 2 == 1" for above in after)]))
        for spec in inner.specs:
            if spec.kind == "work" and spec.condition is None and draw(st.integers(0, 9)) < 2:
                spec.condition = "given"
        inner.fails_first = draw(st.lists(st.sampled_from([spec.name for spec in inner.specs]), max_size=1))
        nest.inner[name] = inner
    return nest


# Both ways of running it


def compiled(nest: Nest, *, opaque: bool = False):
    try:
        return plan_of(
            *(nest.node(spec, opaque=opaque) for spec in nest.specs), max_total_iterations=nest.limit
        )
    except InvalidGraph:
        return None


def behaviours(nest: Nest, prefix: str = "") -> dict:
    found = {}
    for spec in nest.specs:
        found[prefix + spec.name] = body(nest, spec)
        if spec.name in nest.inner:
            found |= behaviours(nest.inner[spec.name], f"{prefix}{spec.name}/")
    return found


def body(nest: Nest, spec: Spec):
    def behave(view):
        if spec.name in nest.fails_first and view.entering == 1:
            raise Fail(final=True)
        return spec.behave(view)

    return behave


class Bounded(Simulation):
    """A simulation that says so if it does not end. With `order` who is next follows from its place."""

    def __init__(self, *args, order=None, place=(), **options):
        super().__init__(*args, **options)
        self.order = order
        self.place = place
        self.steps = 0

    def step(self):
        self.steps += 1
        assert self.steps < MAX_STEPS, "the run does not end"
        if self.order is not None:
            entry = self.next_of(0, self.place)
            self._pending.remove(entry)
            self._pending.append(entry)
            self._pick = lambda count: count - 1
        super().step()

    def next_of(self, scope, place):
        """What comes next in one graph: a sub-graph of it that is chosen goes on until it has come to its end."""
        plan, run = self.plan, self.run
        members = plan.scopes[scope].members
        entries = [entry for entry in self._pending if members >> entry[1] & 1]
        entered = plan.subgraphs & run.active & members
        entries += [("run", index, 0) for index in bits(entered) if run.nodes[index].has_entered]
        chosen = min(entries, key=lambda entry: self.rank(entry, place))
        index = chosen[1]
        if chosen[0] == "run" and plan.nodes[index].inner is not None:
            return self.next_of(plan.nodes[index].inner, (*place, self.named(index)))
        return chosen

    def named(self, index):
        state = self.run.nodes[index]
        return self.plan.nodes[index].own_name, state.visits - state.earlier, state.attempts

    def rank(self, entry, place):
        return crc32(repr((self.order, place, entry[0], self.named(entry[1]), entry[2])).encode())


class OpaqueGraph(Opaque):
    """A module whose body runs a graph."""

    def __init__(self, nest: Nest, name: str, seed, order) -> None:
        self.nest = nest
        self.name = name
        self.seed = seed
        self.order = order
        self.given = None
        self.was_partial = False
        self.simulation = None

    def begin(self, view):
        draft = Draft(view.plan, view.run, view.run.revision, 0)
        try:
            self.given = draft.value(parse_expression(self.nest.given), "")
        except EvaluationError:
            self.given = None

    def __call__(self, view):
        if self.given is None:
            raise Fail(final=True)
        place = (*self.simulation.place, self.simulation.named(view.plan.by_name[self.name]))
        inner = run_opaque(
            self.nest,
            random.Random(self.seed.random()),
            self.order,
            place,
            {"given": self.given},
            view.attempt,
        )
        status = verdict(inner)
        if status is RunStatus.FAILED:
            raise Fail(str(inner.run.error))
        self.was_partial = status is RunStatus.PARTIAL
        run, plan = inner.run, inner.plan
        draft = Draft(plan, run, run.revision, 0)
        result = end_result(draft, plan.scopes[0])
        view.writes[f"{self.name}_n"] = run.state.get("n")
        view.writes[f"{self.name}_sum"] = encode(draft.value(parse_expression("[n0, n]"), ""))
        view.writes[self.name] = result
        return decode_plain(result)


def run_scoped(nest, rng, order=None, *, checks=False):
    plan = compiled(nest)
    simulation = Bounded(plan, behaviours(nest), pick=rng.randrange, order=order, checks=checks)
    simulation.finish()
    return simulation


def run_opaque(nest, rng, order=None, place=(), state=None, entering=1):
    plan = compiled(nest, opaque=True)
    bodies = {spec.name: body(nest, spec) for spec in nest.specs}
    bodies |= {name: OpaqueGraph(inner, name, rng, order) for name, inner in nest.inner.items()}
    simulation = Bounded(
        plan, bodies, pick=rng.randrange, order=order, place=place, state=state, entering=entering
    )
    for behaviour in bodies.values():
        if isinstance(behaviour, OpaqueGraph):
            behaviour.simulation = simulation
    simulation.finish()
    return simulation


def verdict(opaque) -> RunStatus:
    """A run is partial if something failed inside of a sub-graph that succeeded."""
    if opaque.run.status is not RunStatus.COMPLETE:
        return opaque.run.status
    partial = any(
        isinstance(behaviour, OpaqueGraph)
        and behaviour.was_partial
        and opaque.status(name) == NodeStatus.SUCCEEDED
        for name, behaviour in opaque.behaviours.items()
    )
    return RunStatus.PARTIAL if partial else RunStatus.COMPLETE


def came_to(simulation, status, *, visits):
    """What is compared: the status, the nodes of the outer graph, its state."""
    nodes = {}
    for node in simulation.plan.own_nodes(simulation.plan.scopes[0]):
        state = simulation.run.nodes[node.index]
        result = state.result if state.status is NodeStatus.SUCCEEDED else None
        nodes[node.name] = (state.status.value, result, state.visits if visits else None)
    state = {key: text for key, text in simulation.run.state.items() if "/" not in key and key != "errors"}
    errors = sorted(
        (entry["node"], entry["attempts"]) for entry in decode_plain(simulation.run.state.get("errors", "[]"))
    )
    return status, nodes, state, errors


def has_inner(nest: Nest) -> bool:
    return bool(nest.inner)


# Properties


@quick
@given(nests(1, supervisors=False).filter(has_inner), st.lists(st.integers(0, 2**32), min_size=2, max_size=2))
def test_tame_graphs_come_to_the_same_in_any_order(nest, seeds):
    compare_in_different_orders(nest, seeds)


@quick
@given(nests(2).filter(has_inner), st.lists(st.integers(0, 2**32), min_size=2, max_size=2))
def test_tame_graphs_in_graphs_come_to_the_same_in_any_order(nest, seeds):
    compare_in_different_orders(nest, seeds)


@quick
@given(nests(1, wild=True).filter(has_inner), st.integers(0, 2**32))
def test_wild_graphs_come_to_the_same_in_the_same_order(nest, order):
    compare_in_the_same_order(nest, order)


@quick
@given(nests(2, wild=True).filter(has_inner), st.integers(0, 2**32))
def test_wild_graphs_in_graphs_come_to_the_same_in_the_same_order(nest, order):
    compare_in_the_same_order(nest, order)


def compare_in_different_orders(nest, seeds):
    if compiled(nest) is None or compiled(nest, opaque=True) is None:
        return
    scoped = run_scoped(nest, random.Random(seeds[0]), checks=is_shallow(nest))
    opaque = run_opaque(nest, random.Random(seeds[1]))

    assert came_to(scoped, scoped.run.status, visits=False) == came_to(opaque, verdict(opaque), visits=False)


def compare_in_the_same_order(nest, order):
    if compiled(nest) is None or compiled(nest, opaque=True) is None:
        return
    scoped = run_scoped(nest, random.Random(0), order, checks=is_shallow(nest))
    opaque = run_opaque(nest, random.Random(0), order)

    assert came_to(scoped, scoped.run.status, visits=True) == came_to(opaque, verdict(opaque), visits=True)


def is_shallow(nest: Nest) -> bool:
    """All checks of the simulation take most of the time: graphs in graphs in graphs do without."""
    return not any(inner.inner for inner in nest.inner.values())
