"""A run that failed, or was left in the middle, goes on from there to where it would have come without that."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from graphflow.graph.tasks import RunStatus
from graphflow.inputs import Begin
from graphflow.planning.plan import bits
from graphflow.rules.reopen import reopen
from graphflow.run import NodeStatus
from tests.properties.test_advance_properties import (
    MAX_STEPS,
    Spec,
    behaviours,
    compiled,
    graphs,
    quick,
    simulated,
    summary,
    supervised,
)
from tests.simulation import Simulation


class Fork(Simulation):
    """Goes on with a copy of another run, opened again; now no module fails."""

    def __init__(self, specs: list[Spec], earlier: Simulation, seed: int) -> None:
        mended = behaviours([replace(spec, fails="never") for spec in specs])
        super().__init__(earlier.plan, mended, pick=random.Random(seed).randrange, checks=True)
        self.run = copy.deepcopy(earlier.run)
        reopen(self.plan, self.run, {}, 0)
        for index in bits(self.run.active):
            for place, module in enumerate(self.run.nodes[index].modules):
                if module.status is NodeStatus.WAITING:
                    self._pending.append(("retry", index, place))
                elif module.status.is_active:
                    module.status = NodeStatus.READY
                    self._ready.append((index, place))
        self.began_with = {index: state.visits for index, state in enumerate(self.run.nodes)}
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        assert self.steps < MAX_STEPS, "the run does not end"
        super().step()


def forked(specs: list[Spec], earlier: Simulation, seed: int) -> Fork:
    fork = Fork(specs, earlier, seed)
    fork.finish()
    return fork


def interrupted(specs: list[Spec], plan, seed: int, steps: int) -> Simulation:
    """A run after so many steps, or after its end."""
    simulation = Simulation(plan, behaviours(specs), pick=random.Random(seed).randrange)
    simulation.fold(Begin())
    for _ in range(steps):
        if simulation.run.status.is_final:
            break
        simulation.admit()
        simulation.step()
    return simulation


def tame(specs: list[Spec]) -> list[Spec]:
    """Without error handlers and loops, after which what a run comes to depends on what failed in it."""
    kept = [spec for spec in specs if spec.kind != "handler" and not spec.name.startswith("c_")]
    return [replace(spec, on_error=None) for spec in kept if spec.name != "loop"]


#: What had failed is running again when END stops it.
STOPPED_AGAIN = [
    Spec("n0", "source"),
    Spec("n1", "waiting", fails="always"),
    Spec("n2", "work", ["n0"]),
    Spec("n3", "flow", ["n2"], [(["END"], None)]),
    Spec("n4", "flow", ["n2"], [(["n5", "END"], None)]),
    Spec("n5", "work", ["n0"]),
]


@quick
@given(graphs(wild=True), st.integers(0, 2**32))
@example(STOPPED_AGAIN, 93)
def test_run_that_is_tried_again_ends_and_nothing_in_it_has_failed(specs, seed):
    plan = compiled(specs)
    if plan is None:
        return

    fork = forked(specs, simulated(specs, plan, seed), seed)

    assert fork.run.status.is_final
    assert not [name for name in plan.by_name if fork.status(name) == "failed"]


@quick
@given(supervised(), st.integers(0, 2**32))
def test_supervised_run_that_is_tried_again_ends(specs, seed):
    plan = compiled(specs)
    if plan is None:
        return

    fork = forked(specs, simulated(specs, plan, seed), seed)

    assert not [name for name in plan.by_name if fork.status(name) == "failed"]


@quick
@given(graphs(jumps=False), st.integers(0, 2**32))
def test_run_that_is_tried_again_comes_to_what_it_would_have_come_to_without_failures(specs, seed):
    specs = tame(specs)
    sound = [replace(spec, fails="never") for spec in specs]
    plan = compiled(specs)
    if plan is None:
        return

    fork = forked(specs, simulated(specs, plan, seed), seed)

    assert summary(fork) == summary(simulated(sound, plan, seed))


@quick
@given(graphs(jumps=False), st.integers(0, 2**32))
def test_nodes_that_nothing_above_failed_do_not_run_again(specs, seed):
    specs = tame(specs)
    plan = compiled(specs)
    if plan is None:
        return
    failed = simulated(specs, plan, seed)
    if failed.run.status is RunStatus.COMPLETE:
        return
    broken = sum(node.bit for node in plan.nodes if failed.run.nodes[node.index].status is NodeStatus.FAILED)

    fork = forked(specs, failed, seed)

    for node in plan.nodes:
        if not (node.ancestors | node.bit) & broken:
            assert fork.run.nodes[node.index].visits == fork.began_with[node.index], node.name


@quick
@given(graphs(failures=False), st.integers(0, 2**32), st.integers(0, 12))
def test_run_that_goes_on_from_its_middle_comes_to_the_same_end(specs, seed, steps):
    plan = compiled(specs)
    if plan is None:
        return
    middle = interrupted(specs, plan, seed, steps)

    if not middle.run.status.is_final:
        assert summary(forked(specs, middle, seed + 1)) == summary(simulated(specs, plan, seed))
