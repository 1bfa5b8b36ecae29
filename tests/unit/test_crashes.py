"""What the rules make of processes that died: who is suspected, who may run, who fails for it."""

from __future__ import annotations

import pytest

from graphflow import AgentModule, Node, NodeConfig, RunStatus, Task
from graphflow.ids import RunId
from graphflow.inputs import Begin, Crashed, Input, ItemOutcomes, ItemsStored, Outcome, Started
from graphflow.planning.compile import compile_plan
from graphflow.planning.plan import Plan
from graphflow.rules.advance import advance, apply
from graphflow.rules.crashes import UNSTORED_ITEMS, may_have_been_in_flight, suspects_to_run, window
from graphflow.run import NodeState, NodeStatus, Run


class Work(AgentModule):
    async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
        return None


def plan_of(*nodes: Node, concurrent: int = 10) -> Plan:
    return compile_plan(
        list(nodes),
        name="crashes",
        state_keys=["numbers"],
        max_concurrent_tasks=concurrent,
        max_total_iterations=None,
        deadline=None,
    )


class Driven:
    """A run that inputs are folded into."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run = Run(RunId("r"), Task(type="t"), [NodeState() for _ in plan.nodes])

    def fold(self, *inputs: Input) -> None:
        for each in inputs:
            apply(self.run, advance(self.plan, self.run, each, 0, 0), self.plan)

    def die(self) -> None:
        self.run.deaths += 1
        self.fold(Crashed())

    def suspects(self) -> dict[int, list[int]] | None:
        found = suspects_to_run(self.plan, self.run)
        return None if found is None else found.items


def a_map(items: int, *, concurrent: int = 10, max_crashes: int = 5, batch_size: int | None = None) -> Driven:
    config = NodeConfig(map_over="numbers", max_crashes=max_crashes, batch_size=batch_size)
    driven = Driven(plan_of(Node(name="work", modules=[Work()], node_config=config), concurrent=concurrent))
    driven.fold(Begin(), Started(0, 0), ItemsStored(0, 1, [(index, "1") for index in range(items)]))
    return driven


def test_first_death_of_a_map_counts_for_the_items_that_may_have_been_in_flight() -> None:
    driven = a_map(1_000)

    driven.die()

    assert sorted(driven.run.maps[0].crashes) == list(range(10 + UNSTORED_ITEMS))
    assert set(driven.run.maps[0].crashes.values()) == {1}
    assert driven.suspects() is None


def test_first_death_of_a_map_counts_for_all_items_of_the_batches_in_flight() -> None:
    driven = a_map(1_000, batch_size=20)

    driven.die()

    assert sorted(driven.run.maps[0].crashes) == list(range(10 * 20 + UNSTORED_ITEMS))


def test_what_died_twice_runs_to_the_exclusion_of_all_others() -> None:
    driven = a_map(1_000)

    driven.die()
    driven.die()

    suspects = driven.suspects()
    assert suspects is not None
    assert suspects[0] == list(range(window(10, 2, 5)))


def test_window_of_suspects_narrows_to_one() -> None:
    widths = [window(100, crashes, 5) for crashes in (2, 3, 4, 5)]

    assert widths == sorted(widths, reverse=True)
    assert widths[0] < 100
    assert widths[-2:] == [1, 1]


def test_only_the_poisonous_item_fails_after_max_crashes_deaths() -> None:
    driven, poison, deaths = a_map(1_000, concurrent=100), 500, 0
    done: set[int] = set()

    while driven.run.status is not RunStatus.PARTIAL:
        flying = may_have_been_in_flight(driven.plan, driven.run).items[0]
        if suspects_to_run(driven.plan, driven.run) is None:
            flying = flying[:100]
        if poison in flying:
            deaths += 1
            driven.die()
        else:
            driven.fold(ItemOutcomes(0, 1, done=[(index, "1") for index in flying]))
            done |= set(flying)
        assert deaths <= 5

    assert deaths == 5
    assert done == set(range(1_000)) - {poison}
    assert driven.run.maps[0].failed == 1


def test_suspects_that_succeed_are_suspects_no_more() -> None:
    driven = a_map(20, concurrent=1)
    driven.die()
    driven.die()

    while (suspects := driven.suspects()) is not None:
        driven.fold(ItemOutcomes(0, 1, done=[(index, "1") for index in suspects[0]]))

    assert driven.run.status is RunStatus.COMPLETE


@pytest.mark.parametrize("max_crashes", [1, 2, 5])
def test_node_that_kills_its_process_alone_fails_after_max_crashes(max_crashes: int) -> None:
    driven = Driven(
        plan_of(Node(name="work", modules=[Work()], node_config=NodeConfig(max_crashes=max_crashes)))
    )
    driven.fold(Begin(), Started(0, 0))

    for death in range(1, max_crashes + 1):
        assert driven.run.status is RunStatus.EXECUTING, f"before death {death}"
        driven.die()

    assert driven.run.status is RunStatus.FAILED
    assert driven.run.nodes[0].failure is not None
    assert f"died {max_crashes} times" in driven.run.nodes[0].failure.message
    assert driven.run.nodes[0].attempts == 0


def test_node_beside_others_is_not_failed_before_it_has_died_alone() -> None:
    nodes = [Node(name=name, modules=[Work()], node_config=NodeConfig(max_crashes=2)) for name in ("a", "b")]
    driven = Driven(plan_of(*nodes))
    driven.fold(Begin(), Started(0, 0), Started(1, 0))

    driven.die()
    driven.die()
    alone = suspects_to_run(driven.plan, driven.run)
    driven.die()

    assert alone is not None
    assert alone.nodes == [0]
    assert driven.run.nodes[0].status is NodeStatus.FAILED
    assert driven.run.nodes[1].status.is_active
    driven.fold(Started(1, 0), Outcome(1, 0, 1, "null"))
    assert driven.run.status is RunStatus.PARTIAL


def test_node_that_succeeded_is_no_suspect() -> None:
    config = NodeConfig(max_crashes=3)
    driven = Driven(plan_of(Node(name="work", modules=[Work()], node_config=config)))
    driven.fold(Begin(), Started(0, 0))
    driven.die()

    driven.fold(Outcome(0, 0, 1, "null"))

    assert driven.run.nodes[0].crashes == 1
    assert suspects_to_run(driven.plan, driven.run) is None
